//! A blob of 1 GiB: streamed, never kept, and the same bytes afterwards.

use std::fs;
use std::path::Path;

use crate::lab::{Curl, Lab, MIB, run};

#[test]
fn gibibyte_passes_through_without_being_kept() {
    let lab = Lab::start();
    let curl = Curl::new(&lab, "--http1.1");
    let digest = generate(&lab, "sha256sum");
    let digest = digest.split_whitespace().next().unwrap();
    // One exchange first, so that what every request needs is there.
    let location = curl.start_upload("team/big");
    let (idle, files) = (memory(&lab, "VmRSS:"), files(&lab));

    let upload = generate(
        &lab,
        &format!("{} {CHUNKED} '{location}'", curl_words(&lab)),
    );
    let next = location_in(&upload);
    let done = curl.ask_as_user(
        &format!("{next}&digest=sha256:{digest}"),
        &["--request", "PUT"],
    );
    assert_eq!(done.status, 201, "{done:?}");

    let blob = lab.url(&format!("/v2/team/big/blobs/sha256:{digest}"));
    let get = format!("{} '{blob}'", curl_words(&lab));
    let whole = shell(&lab, &format!("{get} --http2 | sha256sum"));
    assert!(
        whole.starts_with(digest),
        "the blob came back changed: {whole}"
    );
    let parts = shell(
        &lab,
        &format!("({get} --range 0-500000000; {get} --range 500000001-) | sha256sum"),
    );
    assert!(
        parts.starts_with(digest),
        "two ranges do not make the blob: {parts}"
    );

    let peak = memory(&lab, "VmHWM:");
    assert!(
        peak < idle + 16 * MIB,
        "the gate's memory grew from {idle} to {peak} bytes"
    );
    assert_eq!(self::files(&lab), files, "the gate left files behind");
    let written = figure(&lab, "io", "write_bytes:");
    assert!(written < MIB, "the gate wrote {written} bytes to disk");
}

/// Runs `consumer` with the gibibyte as its standard input, the same bytes each time.
fn generate(lab: &Lab, consumer: &str) -> String {
    let bytes = "head -c 1G /dev/zero | openssl enc -aes-128-ctr -nosalt -K 00 -iv 01 2>/dev/null";
    shell(lab, &format!("{bytes} | {consumer}"))
}

fn shell(lab: &Lab, script: &str) -> String {
    run(lab.command("bash").args(["-o", "pipefail", "-c", script])).succeeds()
}

fn curl_words(lab: &Lab) -> String {
    let ca = lab.certs().ca();
    format!(
        "curl --silent --show-error --fail --cacert {} --user {}",
        ca.display(),
        Lab::credentials()
    )
}

/// The `Location` among the lines that `curl --include` printed.
fn location_in(answer: &str) -> &str {
    let fields = answer.lines().filter_map(|line| line.split_once(": "));
    let mut values = fields
        .filter(|(name, _)| name.eq_ignore_ascii_case("location"))
        .map(|(_, value)| value);
    values
        .next()
        .unwrap_or_else(|| panic!("no Location: {answer}"))
        .trim()
}

/// A figure of the gate's `/proc/PID/status`, in bytes.
fn memory(lab: &Lab, name: &str) -> u64 {
    figure(lab, "status", name) * 1024
}

/// The number behind `name` in a file of the gate's `/proc/PID`.
fn figure(lab: &Lab, file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{}/{file}", lab.proxy_pid())).unwrap();
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap();
    value.split_whitespace().next().unwrap().parse().unwrap()
}

/// Every file in the folders the gate may write to.
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
