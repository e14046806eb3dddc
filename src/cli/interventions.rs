//! `tidegate unblock` and `tidegate cut`: let a client network log in again, and end one transfer.
//!
//! The running process does both, in `admin::interventions`, and logs them. It accepts them over its Unix socket only.

use std::path::Path;
use std::process::ExitCode;

use http::Method;

use super::admin_client::{AdminClient, socket_remedy};
use super::args::ConfigArgs;
use super::output::{escape_lines, fail, print_line};
use crate::net::cidr::Cidr;

#[derive(Debug, clap::Args)]
#[command(after_help = UNBLOCK_EXAMPLES)]
pub(crate) struct UnblockArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// An address, or a network such as 10.0.0.0/8. An IPv6 address means its /64, by which the proxy counts
    #[arg(value_name = "NETWORK")]
    network: Cidr,
}

#[derive(Debug, clap::Args)]
#[command(after_help = CUT_EXAMPLES)]
pub(crate) struct CutArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The ID of the transfer, which tidegate status and the status page show
    #[arg(value_name = "ID")]
    id: u64,
}

pub(crate) fn unblock(args: &UnblockArgs) -> ExitCode {
    send(
        &args.config.file,
        &format!("/unblock?network={}", args.network),
    )
}

pub(crate) fn cut(args: &CutArgs) -> ExitCode {
    send(&args.config.file, &format!("/cut?id={}", args.id))
}

fn send(file: &Path, target: &str) -> ExitCode {
    let client = match AdminClient::find(file) {
        Ok(client) => client,
        Err(error) => return error.report(),
    };
    if let AdminClient::Tcp(address) = client {
        return fail(&format!(
            "listen.admin is {address}, which every user of this machine can reach, so it does not accept this command; {}",
            socket_remedy(file)
        ));
    }
    match client.send(&Method::POST, target) {
        Ok(response) if response.is_success() => {
            print_line(&escape_lines(&response.text()));
            ExitCode::SUCCESS
        }
        Ok(response) => fail(&escape_lines(&response.text())),
        Err(error) => fail(&error),
    }
}

const UNBLOCK_EXAMPLES: &str = "Examples:
  tidegate unblock 192.0.2.7              one address
  tidegate unblock 2001:db8:1:2::7        the /64 of this address
  tidegate unblock 2001:db8:1::/48        a whole /48, whose networks share a second limit

Only the counted wrong passwords are cleared. The running proxy logs it. Exit code 1: it was not done.";
const CUT_EXAMPLES: &str = "Examples:
  tidegate status                         every transfer with its ID
  tidegate cut 12                         end this one

A client that has no response yet gets 403 DENIED; otherwise its connection or stream breaks. The client may try again:
take the user out of the password file first. The running proxy logs it. Exit code 1: it was not done.";
