//! Rewriting of header sections in both directions, in `Forward::send`. The figure includes the request line, the upstream
//! connection and the response head, over a Unix socket to an upstream in the same thread.
//!
//! Two sizes of header sections are sent; their difference is the cost of the fields. The same request and response by the HTTP/1
//! client of hyper, without any rewriting, are the comparison for the codec in `upstream::http1`.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use criterion::Criterion;
use http::{Method, Request, request};
use http_body_util::BodyExt as _;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
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
        let route = Route::new(&few, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        bencher.iter(|| route.forward());
    });
    let many = request("POST", "/v2/team/app/blobs/uploads/", MANY);
    group.bench_function("an upload begins, many fields and a Location", |bencher| {
        let route = Route::new(&many, ACCEPTED);
        bencher.iter(|| route.forward());
    });
    group.bench_function("a ping by hyper's client", |bencher| {
        let mut client = HyperClient::connect("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}");
        bencher.iter(|| client.exchange(&few));
    });
    group.finish();
}

/// A connection of hyper's HTTP/1 client to the same upstream.
struct HyperClient {
    runtime: LocalRuntime,
    sender: SendRequest<Body>,
    _folder: TempDir,
}

impl HyperClient {
    fn connect(response: &'static str) -> Self {
        let (folder, runtime) = (tempfile::tempdir().unwrap(), worker());
        let path = folder.path().join("upstream");
        start_upstream(&runtime, &path, response);
        let sender = runtime.block_on(async {
            let stream = UnixStream::connect(&path).await.unwrap();
            let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
            tokio::task::spawn_local(connection);
            sender
        });
        Self {
            runtime,
            sender,
            _folder: folder,
        }
    }

    fn exchange(&mut self, parts: &request::Parts) {
        let request = Request::from_parts(parts.clone(), Body::empty());
        let sender = &mut self.sender;
        self.runtime.block_on(async {
            sender.ready().await.unwrap();
            let response = sender.send_request(request).await.unwrap();
            response.into_body().collect().await.unwrap();
        });
    }
}

fn start_upstream(runtime: &LocalRuntime, path: &Path, response: &'static str) {
    runtime.block_on(async {
        let listener = UnixListener::bind(path).unwrap();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(respond_to_all(stream, response));
            }
        });
    });
}

/// A request that is sent repeatedly, and the upstream that responds to it.
struct Route {
    runtime: LocalRuntime,
    forward: Forward,
    parts: request::Parts,
    target: Target,
    identity: Identity,
    operation: Operation,
    _folder: TempDir,
}

impl Route {
    fn new(parts: &request::Parts, response: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("upstream");
        let runtime = worker();
        start_upstream(&runtime, &path, response);
        let upstream = Upstream::new(settings(Endpoint::Unix(path)), 1, &[]);
        let edits = HeaderEdits::default();
        let parsed = Operation::parse(&parts.method, parts.uri.path(), None);
        let Ok(Parsed::Operation(operation)) = parsed else {
            panic!("{} is no operation", parts.uri);
        };
        let authenticator = Authenticator::anonymous();
        let client = ClientAddr::new([192, 0, 2, 1].into());
        let identity = at_once(authenticator.authenticate(&parts.headers, client)).unwrap();
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

    fn forward(&self) {
        let (parts, networks) = (self.parts.clone(), Networks::default());
        let client = ClientAddr::new([192, 0, 2, 1].into());
        let field = client.header_value();
        let client_info = ClientInfo::new(client, &field, "https", &parts.headers, Some(&networks));
        let external = ExternalOrigin {
            scheme: "https",
            authority: self.target.authority(),
        };
        let context = ForwardContext {
            client_info: &client_info,
            target: &self.target,
            external,
            is_site: &|host| host == HOST,
            user: None,
            websocket: None,
            request_id: "0123456789abcdef",
            worker: 0,
        };
        let sent = self
            .forward
            .send(self.permit(), parts, Body::empty(), &context);
        self.runtime.block_on(async {
            let response = sent.await.unwrap();
            response.into_body().collect().await.unwrap();
        });
    }

    fn permit(&self) -> Permit {
        let access = RequestedAccess::Operation(self.operation.clone());
        match Access::Everyone.permit(&self.identity, access) {
            Ok(Authorization::Full(permit)) => permit,
            _ => panic!("every identity has every right"),
        }
    }
}

/// Responds to each read with a fixed response.
async fn respond_to_all(mut stream: UnixStream, response: &str) {
    let mut head = [0; 4096];
    while let Ok(1..) = stream.read(&mut head).await {
        if stream.write_all(response.as_bytes()).await.is_err() {
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
