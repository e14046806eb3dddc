//! The arguments that several commands share.

use std::path::PathBuf;

/// The argument that names the configuration.
#[derive(Debug, clap::Args)]
pub(crate) struct ConfigArgs {
    /// The configuration
    #[arg(short = 'c', long = "config", value_name = "FILE", default_value = DEFAULT_CONFIG)]
    pub(crate) file: PathBuf,
}

const DEFAULT_CONFIG: &str = "/etc/tidegate/proxy.toml";
