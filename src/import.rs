//! Conversion of other programs' configurations.

pub mod nginx;
