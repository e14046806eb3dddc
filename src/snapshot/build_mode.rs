//! The purpose for which a snapshot is built: to serve, or to check a configuration.

/// The purpose for which a snapshot is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuildMode {
    /// To serve: files in `state.dir` that are missing are created, and the access log is opened.
    Serve,
    /// To check: nothing is written. Instead the rights of this process are examined.
    Check,
}
