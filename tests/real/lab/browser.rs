//! A headless Chromium, which the tests control through chromedriver with a few WebDriver commands.
//!
//! The browser accepts the certificate of the proxy because its public key is pinned. It resolves no host name but `localhost`.

use std::io::{BufRead as _, BufReader, Error, ErrorKind, Read as _, Result, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::process::Service;
use super::{Lab, free_port};

/// A browser window with a new profile.
pub(crate) struct Browser {
    port: u16,
    session: String,
    _service: Service,
}

impl Browser {
    /// Starts chromedriver, which starts Chromium.
    pub(crate) fn start(lab: &Lab) -> Self {
        let port = free_port();
        let mut command = lab.command("unshare");
        command.args([
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
            "--mount-proc",
            "chromedriver",
        ]);
        command
            .arg(format!("--port={port}"))
            .env("TMPDIR", lab.path("tmp"));
        let mut service = Service::start("chromedriver", &command, &lab.path(""));
        service.wait_until(|| TcpStream::connect(("127.0.0.1", port)).is_ok());
        let session = call(port, "POST", "/session", &capabilities(lab));
        let session = session["sessionId"]
            .as_str()
            .unwrap_or_else(|| panic!("no session: {session}"))
            .to_owned();
        Self {
            port,
            session,
            _service: service,
        }
    }

    /// Navigates to `url`.
    pub(crate) fn open(&self, url: &str) {
        self.command("POST", "/url", &json!({ "url": url }));
    }

    /// The visible text of the page.
    pub(crate) fn text(&self) -> String {
        let text = self.script("return document.body.innerText");
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Runs a script in the page and returns its value.
    pub(crate) fn script(&self, script: &str) -> Value {
        let script = json!({ "script": script, "args": [] });
        self.command("POST", "/execute/sync", &script)
    }

    /// Sends a command of the DevTools protocol and returns its result.
    pub(crate) fn devtools(&self, method: &str, parameters: &Value) -> Value {
        let command = json!({ "cmd": method, "params": parameters });
        self.command("POST", "/goog/cdp/execute", &command)
    }

    /// The console messages since the last call: errors, warnings, and violations of the content security policy.
    pub(crate) fn console(&self) -> Vec<String> {
        let lines = self.command("POST", "/se/log", &json!({ "type": "browser" }));
        let lines = lines.as_array().into_iter().flatten();
        lines.map(|line| line["message"].to_string()).collect()
    }

    /// The HTTP status of the page, as the browser recorded it.
    pub(crate) fn status(&self) -> u64 {
        let script = "return performance.getEntriesByType('navigation')[0].responseStatus";
        self.script(script).as_u64().unwrap_or_default()
    }

    /// Reloads the page.
    pub(crate) fn reload(&self) {
        self.command("POST", "/refresh", &json!({}));
    }

    fn command(&self, method: &str, path: &str, body: &Value) -> Value {
        call(
            self.port,
            method,
            &format!("/session/{}{path}", self.session),
            body,
        )
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Closes Chromium, then chromedriver. A process that does not end is killed with the PID namespace.
        let _closed = send(
            self.port,
            "DELETE",
            &format!("/session/{}", self.session),
            &Value::Null,
        );
        let _ended = send(self.port, "GET", "/shutdown", &Value::Null);
    }
}

fn capabilities(lab: &Lab) -> Value {
    let arguments = [
        "--headless=new".to_owned(),
        // Chromium does not start with its sandbox as root.
        "--no-sandbox".to_owned(),
        "--disable-dev-shm-usage".to_owned(),
        "--disable-gpu".to_owned(),
        "--disable-background-networking".to_owned(),
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost".to_owned(),
        format!("--user-data-dir={}", lab.path("chromium").display()),
        format!(
            "--ignore-certificate-errors-spki-list={}",
            lab.certs().pin()
        ),
    ];
    let options = json!({ "args": arguments });
    let wanted = json!({
        "browserName": "chrome",
        "goog:chromeOptions": options,
        "goog:loggingPrefs": { "browser": "ALL" },
    });
    json!({ "capabilities": { "alwaysMatch": wanted } })
}

/// Sends one WebDriver command, asserts that it succeeds, and returns its value.
fn call(port: u16, method: &str, path: &str, body: &Value) -> Value {
    let (head, body) =
        send(port, method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"));
    assert!(
        head.starts_with("HTTP/1.1 200"),
        "{method} {path}: {head}{body}"
    );
    let mut response: Value = serde_json::from_str(&body).unwrap();
    response["value"].take()
}

/// Sends one HTTP request on a new connection and returns the head and the body of the response. chromedriver does not close the
/// connection, so that the end of the response follows from its Content-Length.
fn send(port: u16, method: &str, path: &str, body: &Value) -> Result<(String, String)> {
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let fields = format!(
        "Host: localhost:{port}\r\nContent-Length: {}\r\n",
        body.len()
    );
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\n{fields}Content-Type: application/json\r\n\r\n{body}"
    )?;
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
    let mut body = vec![0; length(&head).ok_or_else(|| Error::other(head.clone()))?];
    reader.read_exact(&mut body)?;
    Ok((head, String::from_utf8_lossy(&body).into_owned()))
}

fn length(head: &str) -> Option<usize> {
    let head = head.to_ascii_lowercase();
    head.lines()
        .find_map(|line| line.strip_prefix("content-length:"))?
        .trim()
        .parse()
        .ok()
}

const PATIENCE: Duration = Duration::from_secs(60);
