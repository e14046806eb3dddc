//! An HTTP/2 client that gives tests access to single streams.

use std::future::{Future, poll_fn};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use ::h2::client::{ResponseFuture, SendRequest};
use ::h2::{RecvStream, SendStream, client};
use bytes::Bytes;
use http::{Request, Response};
use rustls::ClientConfig;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::client::connect_tcp_from;
use super::{PATIENCE, Proxy, TestRequest, TestResponse, certs};

/// One HTTP/2 connection.
pub(crate) struct H2Client {
    send: SendRequest<Bytes>,
    /// Drives the connection, and completes when the connection ends.
    pub(crate) connection: JoinHandle<Result<(), ::h2::Error>>,
}

/// Runs a future to completion on this thread, within [`PATIENCE`].
pub(crate) fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(with_time_limit(future))
}

/// Awaits a future, and fails the test if it is not ready within [`PATIENCE`].
pub(crate) async fn with_time_limit<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.expect("done in time")
}

/// Waits for a condition while the connections of this thread make progress.
pub(crate) async fn wait_until(happened: impl Fn() -> bool) {
    with_time_limit(async {
        while !happened() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

impl H2Client {
    pub(crate) async fn connect(proxy: &Proxy) -> Self {
        Self::connect_with(proxy, client::Builder::new().initial_window_size(1 << 20)).await
    }

    pub(crate) async fn connect_with(proxy: &Proxy, builder: &client::Builder) -> Self {
        let socket = with_time_limit(TcpStream::connect(proxy.https()))
            .await
            .unwrap();
        Self::over(socket, builder).await
    }

    /// Connects with another server name (SNI) and TLS configuration.
    pub(crate) async fn connect_as(proxy: &Proxy, name: &str, config: Arc<ClientConfig>) -> Self {
        let socket = with_time_limit(TcpStream::connect(proxy.https()))
            .await
            .unwrap();
        Self::over_tls(socket, &client::Builder::new(), name, config).await
    }

    /// Connects from another address of this machine.
    pub(crate) async fn connect_from(source: Ipv4Addr, proxy: &Proxy) -> Self {
        let socket = connect_tcp_from(source, proxy.https());
        socket.set_nonblocking(true).unwrap();
        let socket = TcpStream::from_std(socket).unwrap();
        Self::over(socket, &client::Builder::new()).await
    }

    /// Starts TLS on a connection on which bytes may have been sent before, such as a PROXY header.
    pub(crate) async fn start_tls(socket: std::net::TcpStream, config: Arc<ClientConfig>) -> Self {
        socket.set_nonblocking(true).unwrap();
        let socket = TcpStream::from_std(socket).unwrap();
        Self::over_tls(socket, &client::Builder::new(), "localhost", config).await
    }

    /// Connects without TLS, with prior knowledge.
    pub(crate) async fn plain(address: SocketAddr) -> Self {
        let socket = with_time_limit(TcpStream::connect(address)).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let builder = client::Builder::new();
        let (send, connection) = with_time_limit(builder.handshake(socket)).await.unwrap();
        Self {
            send,
            connection: tokio::spawn(connection),
        }
    }

    async fn over(socket: TcpStream, builder: &client::Builder) -> Self {
        Self::over_tls(
            socket,
            builder,
            "localhost",
            certs::default_client_config("h2"),
        )
        .await
    }

    async fn over_tls(
        socket: TcpStream,
        builder: &client::Builder,
        name: &str,
        config: Arc<ClientConfig>,
    ) -> Self {
        socket.set_nodelay(true).unwrap();
        let connector = TlsConnector::from(config);
        let name = name.to_owned().try_into().unwrap();
        let stream = with_time_limit(connector.connect(name, socket))
            .await
            .unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
        let (send, connection) = with_time_limit(builder.handshake(stream)).await.unwrap();
        Self {
            send,
            connection: tokio::spawn(connection),
        }
    }

    /// Sends a request and reads its response.
    pub(crate) async fn exchange(&mut self, request: &TestRequest) -> TestResponse {
        self.try_exchange(request).await.expect("a response")
    }

    /// Sends `GET /v2/` with the credentials of alice, and returns the status of the response.
    pub(crate) async fn ping(&mut self) -> u16 {
        let ping = TestRequest::alice("GET", "/v2/");
        self.exchange(&ping).await.status
    }

    /// Sends a request and reads its response, or returns the error that came instead.
    pub(crate) async fn try_exchange(
        &mut self,
        request: &TestRequest,
    ) -> Result<TestResponse, ::h2::Error> {
        let (response_future, mut sender) = self.start_request(request).await?;
        let body = request.body.clone();
        let response = async { Ok(collect(response_future.await?).await) };
        tokio::pin!(response);
        let send = async {
            if let Some(body) = body {
                // A response that arrives before the end of the request body ends the sending.
                let _ = send(&mut sender, &body, true).await;
            }
            std::future::pending::<()>().await;
        };
        with_time_limit(async {
            tokio::select! {
                response = &mut response => response,
                () = send => unreachable!(),
            }
        })
        .await
    }

    /// The number of concurrent streams that the proxy allows.
    pub(crate) fn max_concurrent_streams(&self) -> usize {
        self.send.current_max_send_streams()
    }

    /// Sends the header section of a request. If the request has a body, the caller sends it with [`send`].
    pub(crate) async fn start_request(
        &mut self,
        request: &TestRequest,
    ) -> Result<(ResponseFuture, SendStream<Bytes>), ::h2::Error> {
        poll_fn(|cx| self.send.poll_ready(cx)).await?;
        let has_body = request.body.is_some() || request.is_chunked;
        self.send.send_request(to_http_request(request), !has_body)
    }
}

fn to_http_request(request: &TestRequest) -> Request<()> {
    let uri = format!("https://{}{}", request.host, request.target);
    let mut builder = Request::builder().method(request.method.as_str()).uri(uri);
    for (name, value) in &request.headers {
        builder = builder.header(name.as_str(), value.as_slice());
    }
    if let (Some(body), false) = (&request.body, request.is_chunked) {
        builder = builder.header("content-length", body.len());
    }
    builder.version(http::Version::HTTP_2).body(()).unwrap()
}

/// Sends bytes as the flow-control window allows.
pub(crate) async fn send(
    sender: &mut SendStream<Bytes>,
    mut bytes: &[u8],
    last: bool,
) -> Result<(), ::h2::Error> {
    while !bytes.is_empty() {
        sender.reserve_capacity(bytes.len().min(64 * 1024));
        let room = match poll_fn(|cx| sender.poll_capacity(cx)).await {
            Some(room) => room?.min(bytes.len()),
            None => return Err(::h2::Reason::STREAM_CLOSED.into()),
        };
        let (now, later) = bytes.split_at(room);
        bytes = later;
        sender.send_data(Bytes::copy_from_slice(now), last && bytes.is_empty())?;
        if last && bytes.is_empty() {
            return Ok(());
        }
    }
    if last {
        sender.send_data(Bytes::new(), true)
    } else {
        Ok(())
    }
}

/// Reads a response to its end.
pub(crate) async fn collect(response: Response<RecvStream>) -> TestResponse {
    let (parts, mut incoming) = response.into_parts();
    let text = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| char::from(*byte))
            .collect::<String>()
    };
    let fields = parts.headers.iter();
    let mut collected = TestResponse {
        status: parts.status.as_u16(),
        headers: fields
            .map(|(name, value)| (name.to_string(), text(value.as_bytes())))
            .collect(),
        body: Vec::new(),
        is_whole: true,
        interim: Vec::new(),
        trailers: 0,
    };
    while let Some(frame) = with_time_limit(incoming.data()).await {
        match frame {
            Ok(data) => {
                let _ = incoming.flow_control().release_capacity(data.len());
                collected.body.extend(&data);
            }
            Err(_) => {
                collected.is_whole = false;
                return collected;
            }
        }
    }
    match with_time_limit(incoming.trailers()).await {
        Ok(trailers) => collected.trailers = trailers.map_or(0, |trailers| trailers.len()),
        Err(_) => collected.is_whole = false,
    }
    collected
}
