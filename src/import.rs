//! The translation of other programs' configurations into a `proxy.toml`.

pub mod nginx;
