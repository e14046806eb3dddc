//! Rewriting of header sections in both directions, in `Forward::send`. The figure includes the request line, the upstream
//! connection and the response head, over a Unix socket to an upstream in the same thread.
//!
//! Two sizes of header sections are sent; their difference is the cost of the fields.

use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use http::{Method, Request, request};
use http_body_util::BodyExt as _;
use tempfile::TempDir;
use tidegate::access::{Access, Authorization, Permit, RequestedAccess};
use tidegate::auth::{Authenticator, Identity};
use tidegate::body::Body;
use tidegate::forward::{ExternalOrigin, Forward, ForwardContext, HeaderEdits};
use tidegate::forwarded::ClientInfo;
use tidegate::net::addr::ClientAddr;
use tidegate::net::cidr::Networks;
use tidegate::registry::{Operation, Parsed};
use tidegate::target::Target;
use tidegate::upstream::{Endpoint, EndpointSettings, HostHeader, Settings, Upstream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::runtime::LocalRuntime;

use crate::{at_once, worker};

pub(crate) fn measure(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("forward");
    let few = request("GET", "/v2/", &[]);
    group.bench_function("a ping, few fields", |bencher| {
        let passing = Passing::new(&few, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        bencher.iter(|| passing.pass());
    });
    let many = request("POST", "/v2/team/app/blobs/uploads/", MANY);
    group.bench_function("an upload begins, many fields and a Location", |bencher| {
        let passing = Passing::new(&many, ACCEPTED);
        bencher.iter(|| passing.pass());
    });
    group.finish();
}

/// A request that is sent repeatedly, and the upstream that responds to it.
struct Passing {
    runtime: LocalRuntime,
    forward: Forward,
    parts: request::Parts,
    target: Target,
    identity: Identity,
    operation: Operation,
    _folder: TempDir,
}

impl Passing {
    fn new(parts: &request::Parts, answer: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upstream");
        let runtime = worker();
        runtime.block_on(async {
            let listener = UnixListener::bind(&path).unwrap();
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(answer_all(stream, answer));
                }
            });
        });
        let upstream = Upstream::new(settings(Endpoint::Unix(path)), 1, &[]);
        let edits = HeaderEdits::default();
        let asked = Operation::parse(&parts.method, parts.uri.path(), None);
        let Ok(Parsed::Operation(operation)) = asked else {
            panic!("{} is no operation", parts.uri);
        };
        let anyone = Authenticator::anonymous();
        let client = ClientAddr::new([192, 0, 2, 1].into());
        let identity = at_once(anyone.authenticate(&parts.headers, client)).unwrap();
        Self {
            runtime,
            forward: Forward::new(Arc::new(upstream), false, Vec::new(), edits),
            target: Target::parse(parts).unwrap(),
            parts: parts.clone(),
            identity,
            operation,
            _folder: folder,
        }
    }

    fn pass(&self) {
        let (parts, networks) = (self.parts.clone(), Networks::default());
        let client = ClientAddr::new([192, 0, 2, 1].into());
        let field = client.header_value();
        let asker = ClientInfo::new(client, &field, "https", &parts.headers, Some(&networks));
        let outer = ExternalOrigin {
            scheme: "https",
            authority: self.target.authority(),
        };
        let around = ForwardContext {
            client_info: &asker,
            target: &self.target,
            external: outer,
            is_site: &|host| host == HOST,
            user: None,
            request_id: "0123456789abcdef",
            worker: 0,
        };
        let sent = self
            .forward
            .send(self.permit(), parts, Body::empty(), &around);
        self.runtime.block_on(async {
            let answer = sent.await.unwrap();
            answer.into_body().collect().await.unwrap();
        });
    }

    fn permit(&self) -> Permit {
        let asked = RequestedAccess::Operation(self.operation.clone());
        match Access::Everyone.permit(&self.identity, asked) {
            Ok(Authorization::Full(permit)) => permit,
            _ => panic!("anyone may do everything"),
        }
    }
}

/// Responds to each read with a fixed response.
async fn answer_all(mut stream: UnixStream, answer: &str) {
    let mut head = [0; 4096];
    while let Ok(1..) = stream.read(&mut head).await {
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}

fn request(method: &str, path: &str, fields: &[(&str, &str)]) -> request::Parts {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let mut request = Request::builder().method(method).uri(path);
    request = request.header("host", HOST);
    for (name, value) in fields {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn settings(endpoint: Endpoint) -> Settings {
    Settings {
        endpoints: vec![endpoint],
        connect_retry: Duration::ZERO,
        host: HostHeader::Client,
        each: EndpointSettings {
            server_name: None,
            trust: None,
            connect_timeout: PATIENCE,
            read_timeout: PATIENCE,
            connections: 8,
            queue: 8,
            queue_wait: PATIENCE,
            idle: PATIENCE,
            head_size: 64 * 1024,
        },
    }
}

const HOST: &str = "registry.example.com";
const PATIENCE: Duration = Duration::from_secs(60);
/// Fields that docker sends, and fields that the proxy removes.
const MANY: &[(&str, &str)] = &[
    (
        "user-agent",
        "docker/28.0 go/go1.24 kernel/6.1 os/linux arch/amd64",
    ),
    ("accept", "application/vnd.oci.image.index.v1+json"),
    (
        "accept",
        "application/vnd.docker.distribution.manifest.v2+json",
    ),
    ("accept-encoding", "gzip"),
    ("authorization", "Basic YWxpY2U6Y29ycmVjdCBob3JzZQ=="),
    ("connection", "close, x-dropped"),
    ("content-length", "0"),
    ("x-dropped", "1"),
    ("x-forwarded-for", "198.51.100.1"),
    ("x-forwarded-proto", "http"),
];
const ACCEPTED: &str = "HTTP/1.1 202 Accepted\r\n\
    Content-Length: 0\r\n\
    Docker-Distribution-Api-Version: registry/2.0\r\n\
    Docker-Upload-Uuid: 5ae34b0d-8d39-4f0e-9a39-0f4b2c6a6e9c\r\n\
    Location: http://registry.example.com/v2/team/app/blobs/uploads/5ae34b0d-8d39-4f0e-9a39-0f4b2c6a6e9c?_state=abcdef\r\n\
    Range: 0-0\r\n\
    X-Accel-Buffering: no\r\n\
    Date: Mon, 02 Feb 2026 02:02:02 GMT\r\n\r\n";
