//! What must hold for any input: the assertions of the fuzz targets in `fuzz/fuzz_targets`.
//!
//! Every function here reads bytes as one part of the proxy would, and panics if a property does not hold. `cargo fuzz`
//! calls them without end; the unit tests call them with some hundred generated inputs each. The module is compiled for
//! these two only.

pub mod connection;
mod http1_reference;
pub mod parsers;
pub mod upstream;
mod wire;
