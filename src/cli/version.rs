//! The texts of `tidegate -V` and `tidegate --version`. The build script provides the commit and the versions of the libraries.

/// One line: the version and the commit.
pub(crate) const SHORT: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("TIDEGATE_COMMIT"),
    ")"
);

/// The same line, and the versions of the libraries that an operator compares with a security advisory.
pub(crate) const LONG: &str = concat!(
    env!("CARGO_PKG_VERSION"),
    " (commit ",
    env!("TIDEGATE_COMMIT"),
    ")\nbuilt with ",
    env!("TIDEGATE_LIBRARIES"),
);
