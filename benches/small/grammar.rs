//! Parsing: the request target to its canonical path, and the path to an operation.

use std::hint::black_box;

use criterion::Criterion;
use http::{Method, Request};
use tidegate::registry::Operation;
use tidegate::target::Target;

pub(crate) fn measure(criterion: &mut Criterion) {
    operations(criterion);
    targets(criterion);
}

fn operations(criterion: &mut Criterion) {
    let digest = format!("/v2/team/app/blobs/sha256:{}", "a".repeat(64));
    let cases = [
        ("ping", Method::GET, "/v2/", None),
        ("manifest", Method::GET, "/v2/team/app/manifests/1.0", None),
        ("blob", Method::GET, digest.as_str(), None),
        (
            "mount",
            Method::POST,
            "/v2/team/app/blobs/uploads/",
            Some(MOUNT),
        ),
    ];
    let mut group = criterion.benchmark_group("operation");
    for (name, method, path, query) in cases {
        assert!(Operation::parse(&method, path, query).is_ok(), "{name}");
        group.bench_function(name, |bencher| {
            bencher.iter(|| Operation::parse(&method, black_box(path), query));
        });
    }
    group.finish();
}

fn targets(criterion: &mut Criterion) {
    let cases = [
        ("plain", "/v2/team/app/manifests/1.0"),
        ("escaped", "/v2/team%2Dx/app/manifests/1%2e0"),
    ];
    let mut group = criterion.benchmark_group("target");
    for (name, path) in cases {
        let request = Request::get(path).header("host", "registry.example.com:443");
        let (parts, ()) = request.body(()).unwrap().into_parts();
        assert!(Target::of(&parts).is_ok(), "{name}");
        group.bench_function(name, |bencher| {
            bencher.iter(|| Target::of(black_box(&parts)));
        });
    }
    group.finish();
}

const MOUNT: &str = "mount=sha256%3Aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa&from=team%2Fbase";
