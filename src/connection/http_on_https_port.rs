//! The response to a plain HTTP request on an HTTPS port.
//!
//! docker with `insecure-registries`, which contain localhost by default, falls back to plain HTTP only if it gets an HTTP response
//! here. It also does so after a 401 over https if it has no login, and prints the last error only, so the message names the login.

use std::io;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use super::close;

/// Responds with 400 and an OCI error body that gives the reason, and closes the connection with a lingering close.
pub(crate) async fn respond(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    stream.write_all(RESPONSE.as_bytes()).await?;
    stream.shutdown().await?;
    close::linger(&mut stream).await;
    Ok(())
}

const RESPONSE: &str = "HTTP/1.1 400 Bad Request\r\n\
    content-type: application/json\r\n\
    content-length: 201\r\n\
    docker-distribution-api-version: registry/2.0\r\n\
    connection: close\r\n\r\n\
    {\"errors\":[{\"code\":\"UNSUPPORTED\",\"message\":\"this is an HTTPS port and the request was plain HTTP: use https://; docker tries both for localhost, and shows this if it is not logged in\",\"detail\":null}]}\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_response_has_the_right_length_and_a_json_body() {
        let (head, body) = RESPONSE.split_once("\r\n\r\n").unwrap();
        assert!(
            head.contains(&format!("content-length: {}\r\n", body.len())),
            "{}",
            body.len()
        );
        assert!(serde_json::from_str::<serde_json::Value>(body).is_ok());
    }
}
