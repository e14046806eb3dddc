//! The access log and the metrics of one request, from the start of the request to the queue of the log. Another thread writes
//! the line to `/dev/null`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use http::{Method, Request, StatusCode};
use tidegate::access_log::RequestRecord;
use tidegate::body::{BodyEnd, Observer, UploadState};
use tidegate::log::{Destination, LogFormat, LogWriter};
use tidegate::metrics::SiteCounts;
use tidegate::net::addr::ClientAddr;
use tidegate::registry::{Operation, Parsed};

pub(crate) fn measure(criterion: &mut Criterion) {
    let path = "/v2/team/app/manifests/1.0";
    let (parts, ()) = Request::get(path).body(()).unwrap().into_parts();
    let Ok(Parsed::Operation(operation)) = Operation::parse(&Method::GET, path, None) else {
        panic!("{path} is no operation");
    };
    let site = Arc::new(SiteCounts::new("registry.example.com"));
    let mut group = criterion.benchmark_group("access-log");
    for (name, format) in [("text", LogFormat::Text), ("json", LogFormat::Json)] {
        let null = Destination::File("/dev/null".into());
        let log = LogWriter::open(null, format).unwrap();
        let write = || record(Some(&log), black_box(&parts), &operation, &site);
        group.bench_function(name, |bencher| bencher.iter(write));
    }
    group.bench_function("off", |bencher| {
        bencher.iter(|| record(None, black_box(&parts), &operation, &site));
    });
    group.finish();
}

/// What `service` records about a request that gets a response.
fn record(
    log: Option<&LogWriter>,
    parts: &http::request::Parts,
    operation: &Operation,
    site: &Arc<SiteCounts>,
) {
    let client = ClientAddr::new([192, 0, 2, 1].into());
    let upload = Arc::<UploadState>::default();
    let mut record = RequestRecord::begin(log, client, upload, site, parts);
    record.set_site(site);
    record.set_operation(Some(operation));
    record.set_user(Some("alice"));
    record.set_upstream_wait(Duration::from_millis(3));
    record.set_status(StatusCode::OK);
    record.on_data(16 * 1024);
    record.on_end(16 * 1024, BodyEnd::Whole);
}
