//! Plain HTTP on a TLS port, answered in words.
//!
//! docker with `insecure-registries` falls back to HTTP only when it gets some answer here.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::linger;

/// Says what is wrong, as an OCI error, and closes.
pub(super) async fn refuse(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    stream.write_all(REFUSAL.as_bytes()).await?;
    stream.shutdown().await?;
    linger::discard(&mut stream).await;
    Ok(())
}

const REFUSAL: &str = "HTTP/1.1 400 Bad Request\r\n\
    content-type: application/json\r\n\
    content-length: 129\r\n\
    docker-distribution-api-version: registry/2.0\r\n\
    connection: close\r\n\r\n\
    {\"errors\":[{\"code\":\"UNSUPPORTED\",\"message\":\"this is an HTTPS port and the request was plain HTTP: use https://\",\"detail\":null}]}\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refusal_has_the_right_length() {
        let (head, body) = REFUSAL.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}\r\n", body.len())),
            "{}",
            body.len()
        );
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
