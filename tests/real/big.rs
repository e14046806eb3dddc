//! A blob of 1 GiB: the proxy streams it unchanged and stores it neither in memory nor on disk.

use std::fs;
use std::path::Path;

use crate::lab::{Curl, Lab, MIB, run};

#[test]
fn a_gibibyte_is_streamed_and_not_stored() {
    let lab = Lab::start();
    let curl = Curl::new(&lab, "--http1.1");
    let digest = generate(&lab, "sha256sum");
    let digest = digest.split_whitespace().next().unwrap();
    // This request comes before the measurement, so that the proxy has allocated what every request needs.
    let location = curl.start_upload("team/big");
    let (idle, files) = (memory(&lab, "VmRSS:"), files(&lab));

    let upload = generate(
        &lab,
        &format!("{} {CHUNKED} '{location}'", curl_command(&lab)),
    );
    let next = location_in(&upload);
    let closed = curl.request_as_user(
        &format!("{next}&digest=sha256:{digest}"),
        &["--request", "PUT"],
    );
    assert_eq!(closed.status, 201, "{closed:?}");

    let blob = lab.url(&format!("/v2/team/big/blobs/sha256:{digest}"));
    let get = format!("{} '{blob}'", curl_command(&lab));
    let whole = shell(&lab, &format!("{get} --http2 | sha256sum"));
    assert!(
        whole.starts_with(digest),
        "the downloaded blob differs: {whole}"
    );
    let parts = shell(
        &lab,
        &format!("({get} --range 0-500000000; {get} --range 500000001-) | sha256sum"),
    );
    assert!(
        parts.starts_with(digest),
        "the two ranges together differ from the blob: {parts}"
    );

    let peak = memory(&lab, "VmHWM:");
    assert!(
        peak < idle + 16 * MIB,
        "the proxy's memory grew from {idle} to {peak} bytes"
    );
    assert_eq!(self::files(&lab), files, "the proxy left files behind");
    let written = proc_value(&lab, "io", "write_bytes:");
    assert!(written < MIB, "the proxy wrote {written} bytes to disk");
}

/// Runs `consumer` with the gibibyte as its standard input. The bytes are the same in every call.
fn generate(lab: &Lab, consumer: &str) -> String {
    let bytes = "head -c 1G /dev/zero | openssl enc -aes-128-ctr -nosalt -K 00 -iv 01 2>/dev/null";
    shell(lab, &format!("{bytes} | {consumer}"))
}

fn shell(lab: &Lab, script: &str) -> String {
    run(lab.command("bash").args(["-o", "pipefail", "-c", script])).succeeds()
}

fn curl_command(lab: &Lab) -> String {
    let ca = lab.certs().ca();
    format!(
        "curl --silent --show-error --fail --cacert {} --user {}",
        ca.display(),
        Lab::credentials()
    )
}

/// The `Location` in the output of `curl --include`.
fn location_in(response: &str) -> &str {
    let fields = response.lines().filter_map(|line| line.split_once(": "));
    let mut values = fields
        .filter(|(name, _)| name.eq_ignore_ascii_case("location"))
        .map(|(_, value)| value);
    values
        .next()
        .unwrap_or_else(|| panic!("no Location: {response}"))
        .trim()
}

/// A value of the proxy's `/proc/PID/status`, in bytes.
fn memory(lab: &Lab, name: &str) -> u64 {
    proc_value(lab, "status", name) * 1024
}

/// The number after `name` in a file of the proxy's `/proc/PID`.
fn proc_value(lab: &Lab, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/{file}", lab.proxy_pid())).unwrap();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap();
    value.split_whitespace().next().unwrap().parse().unwrap()
}

/// Every file in the directories to which the proxy may write.
fn files(lab: &Lab) -> Vec<String> {
    let mut found = Vec::new();
    for folder in ["tmp", "state"] {
        collect(&lab.path(folder), &mut found);
    }
    found.sort();
    found
}

fn collect(dir: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        found.push(path.display().to_string());
        if path.is_dir() {
            collect(&path, found);
        }
    }
}

const CHUNKED: &str = "--http1.1 --request PATCH --upload-file - --header 'Content-Type: application/octet-stream' \
                       --header Expect: --include";
