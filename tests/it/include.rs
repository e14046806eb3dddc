//! Environment variables (`${NAME}`) and `include` in a configuration: their effect, and the errors.

use std::fs;
use std::path::Path;

use tidegate::config;
use tidegate::net::listener::ListenAddr;

use crate::binary::{ServeProcess, command, configured, text};
use crate::support::proxy::directory;
use crate::support::{
    Client, HttpVersion, Proxy, Registry, TestRequest, assert_contains, certs,
    config as test_config, exchange,
};

#[test]
fn variables_of_the_environment_are_replaced() {
    let registry = Registry::accepting_all();
    let headers = "response_headers = { \"X-Literal\" = \"$${SITE_NAME}\" }\n";
    let config = test_config("", headers)
        .set("hosts", "[\"${SITE_NAME}host\"]")
        .set("upstream", "\"http://${UPSTREAM}\"");
    let (_dir, file) = configured(&config);
    let upstream = registry.url();
    let mut serve = command(&["serve", "-c", &file]);
    serve.env("SITE_NAME", "local");
    serve.env("UPSTREAM", upstream.trim_start_matches("http://"));
    let proxy = ServeProcess::spawn(&mut serve);
    let response = proxy
        .client()
        .exchange(&TestRequest::alice("GET", "/v2/a/tags/list"));
    assert_eq!(
        (response.status, response.header("x-literal")),
        (200, "${SITE_NAME}")
    );
}

#[test]
fn a_variable_that_is_not_set_is_one_error_at_its_value() {
    let config = test_config("", "").upstream("http://${NO_SUCH_VARIABLE}:5000");
    let (_dir, file) = configured(&config);
    let mut check = command(&["check", "-c", &file]);
    let output = check.env_remove("NO_SUCH_VARIABLE").output().unwrap();
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    let report = text(&output.stderr);
    assert_contains(
        &report,
        &[
            "the environment variable NO_SUCH_VARIABLE is not set",
            "fix: set NO_SUCH_VARIABLE in the environment",
            "1 error",
        ],
    );
}

/// A site for an included file in `conf.d`, with paths relative to that folder. The upstream is an environment variable.
fn site(host: &str) -> String {
    format!(
        "[[site]]\nhosts = [\"{host}\"]\ntls = {{ cert = \"../cert.pem\", key = \"../key.pem\" }}\n\
         [[site.route]]\npath = \"/v2/\"\nupstream = \"${{UPSTREAM_URL_OF_TEST}}\"\n\
         auth = {{ mode = \"basic\", htpasswd = \"../htpasswd\", realm = \"{host}\" }}\n"
    )
}

/// A site as from [`site`], with this upstream.
fn site_with(host: &str, upstream: &str) -> String {
    site(host).replace("${UPSTREAM_URL_OF_TEST}", upstream)
}

#[test]
fn the_sites_of_included_files_are_served_and_read_again_by_a_reload() {
    let registry = Registry::accepting_all();
    let dir = directory();
    let (certificate, key) = certs::AUTHORITY.issue(&["localhost", "one.test", "two.test"]);
    fs::write(dir.path().join("cert.pem"), certificate).unwrap();
    fs::write(dir.path().join("key.pem"), key).unwrap();
    let folder = dir.path().join("conf.d");
    fs::create_dir(&folder).unwrap();
    let one = site_with("one.test", &registry.url());
    fs::write(
        folder.join("one.toml"),
        format!("[groups]\nci = [\"alice\"]\n{one}"),
    )
    .unwrap();
    fs::write(folder.join(".hidden.toml"), "nonsense").unwrap();
    fs::write(folder.join("one.toml~"), "nonsense").unwrap();
    let grant =
        "[[site.route.grant]]\nto = [\"@ci\"]\nrepositories = [\"a\"]\nactions = [\"pull\"]\n";
    let config = test_config("", grant).to_string();
    let config = format!("include = [\"conf.d/*.toml\"]\n{config}");
    let proxy = Proxy::start_in(dir, &registry.url(), config);
    let status = |host: &str| {
        let client = certs::default_client_config("http/1.1");
        let mut client = Client::tls(proxy.https(), host, client);
        client
            .exchange(&TestRequest::alice("GET", "/v2/a/tags/list").host(host))
            .status
    };
    assert_eq!(
        (status("localhost"), status("one.test"), status("two.test")),
        (200, 200, 421)
    );
    // The group of the included file has its grant on the site of the main file.
    let other = exchange(
        &proxy,
        HttpVersion::Http1,
        &TestRequest::alice("GET", "/v2/b/tags/list"),
    );
    assert_eq!(other.status, 403);

    proxy.write("conf.d/two.toml", site_with("two.test", &registry.url()));
    proxy.reload().unwrap();
    assert_eq!((status("one.test"), status("two.test")), (200, 200));

    proxy.write("conf.d/two.toml", "[[site]]\nhosts = [\n");
    let problems = proxy.reload().unwrap_err().to_string();
    assert!(problems.contains("conf.d/two.toml:"), "{problems}");
    assert_eq!(
        status("two.test"),
        200,
        "the old configuration stays in use"
    );
}

#[test]
fn the_first_site_is_that_of_the_main_file_and_files_are_read_in_byte_order() {
    let dir = directory();
    let folder = dir.path().join("conf.d");
    fs::create_dir(&folder).unwrap();
    for (file, host) in [
        ("b.toml", "3.test"),
        ("10.toml", "1.test"),
        ("9.toml", "2.test"),
    ] {
        fs::write(folder.join(file), site_with(host, "http://127.0.0.1:1")).unwrap();
    }
    let file = write(
        dir.path(),
        "include = [\"conf.d/*.toml\", \"conf.d/b.toml\"]",
    );
    let (config, problems) = config::load(&file);
    assert!(problems.is_empty(), "{problems}");
    let sites = config.unwrap().sites;
    let hosts: Vec<_> = sites.iter().map(|site| site.hosts[0].as_str()).collect();
    assert_eq!(hosts, ["localhost", "1.test", "2.test", "3.test"]);
}

/// Writes a valid configuration that begins with the lines `top`, and returns its path.
fn write(dir: &Path, top: &str) -> std::path::PathBuf {
    let state = dir.join("state");
    let config = test_config("[groups]\nci = [\"alice\"]\n", "").upstream("http://127.0.0.1:1");
    let file = dir.join("proxy.toml");
    let text = format!("{top}\n{config}\n[state]\ndir = \"{}\"\n", state.display());
    fs::write(&file, text).unwrap();
    file
}

/// A relative path in `site.listen` names a socket of `[listen]`, which is in the main file.
#[test]
fn a_site_of_an_included_file_may_be_served_on_a_relative_socket() {
    let dir = directory();
    fs::create_dir(dir.path().join("conf.d")).unwrap();
    let one = site_with("one.test", "http://127.0.0.1:1").replacen(
        "hosts",
        "listen = [\"unix:http.sock\"]\nhosts",
        1,
    );
    fs::write(dir.path().join("conf.d/one.toml"), one).unwrap();
    let main = test_config("", "").after("https", "behind_proxy = [\"unix:http.sock\"]");
    let file = dir.path().join("proxy.toml");
    let text = format!(
        "include = [\"conf.d/*.toml\"]\n{}",
        main.upstream("http://127.0.0.1:1")
    );
    fs::write(&file, text).unwrap();
    let (config, problems) = config::load(&file);
    assert!(!problems.has_errors(), "{problems}");
    let socket = ListenAddr::Unix(dir.path().join("http.sock"));
    let sites = config.unwrap().sites;
    assert!(
        sites
            .iter()
            .any(|site| site.listen.as_deref() == Some(std::slice::from_ref(&socket)))
    );
}

#[test]
fn each_mistake_of_an_included_file_is_reported_with_its_file_and_line() {
    let good = site_with("one.test", "http://127.0.0.1:1");
    let twice = site_with("localhost", "http://127.0.0.1:1");
    let unset = site("one.test");
    let wrong = format!("{good}registri = false\n");
    let group = "[groups]\nother = [\"bob\"]\n";
    // The content of the included file, the expected problem, and a content without the problem.
    for (content, expected, solved) in [
        (
            "[groups]\nci = [\"bob\"]\n",
            "a.toml:2:1: error: the group \"ci\" was defined before, in line",
            group,
        ),
        (
            "\n[limits]\ndrain = \"1s\"\n",
            "a.toml:2:2: error: limits in an included file",
            "",
        ),
        (
            "include = [\"b.toml\"]\n",
            "a.toml:1:1: error: include in an included file",
            "",
        ),
        (
            "[[sites]]\n",
            "a.toml:1:3: error: unknown key \"sites\"",
            &good,
        ),
        (
            "groups = 5\n",
            "a.toml:1:1: error: groups: expected a table of lists",
            group,
        ),
        (
            "site = 5\n",
            "a.toml:1:1: error: site: expected a list of tables",
            &good,
        ),
        (
            "[site]\n",
            "a.toml:1:2: error: site: expected a list of tables",
            &good,
        ),
        ("x = \n", "a.toml:1:5: error:", ""),
        ("x = \"\u{1}\"\n", "a.toml:1:", ""),
        (
            &twice,
            "a.toml:2:10: error: the host localhost was named before, in line",
            &good,
        ),
        (
            &unset,
            "a.toml:6:12: error: site.route.upstream: the environment variable UPSTREAM_URL_OF_TEST is not set",
            &good,
        ),
        (
            &wrong,
            "a.toml:8:1: error: unknown key \"registri\" in site.route",
            &good,
        ),
    ] {
        let dir = directory();
        fs::create_dir(dir.path().join("conf.d")).unwrap();
        let included = dir.path().join("conf.d/a.toml");
        fs::write(&included, content).unwrap();
        let file = write(dir.path(), "include = [\"conf.d/*.toml\"]");
        let (_, problems) = config::load(&file);
        let shown = problems.to_string();
        assert!(shown.contains(expected), "{expected} in {shown}");
        assert_eq!(problems.errors().count(), 1, "{shown}");
        if expected.ends_with("in line") {
            assert!(shown.contains(&format!("of {}", file.display())), "{shown}");
        }
        fs::write(&included, solved).unwrap();
        let (_, problems) = config::load(&file);
        assert!(problems.is_empty(), "{problems}");
    }
}

#[test]
fn a_pattern_that_cannot_be_used_is_reported_where_it_is_written() {
    for (pattern, expected) in [
        (
            "missing.toml",
            "proxy.toml:1:12: error: include: cannot read ",
        ),
        (
            "missing/*.toml",
            "proxy.toml:1:12: error: include: cannot read ",
        ),
        (
            "*/a.toml",
            "proxy.toml:1:12: error: include: \"*/a.toml\" has \"*\" in the name of a folder",
        ),
        (".", "not a regular file"),
        ("", "include: it is empty"),
        (
            "${NO_SUCH_VARIABLE}",
            "proxy.toml:1:12: error: include: the environment variable",
        ),
    ] {
        let dir = directory();
        let file = write(dir.path(), &format!("include = [\"{pattern}\"]"));
        let (_, problems) = config::load(&file);
        let shown = problems.to_string();
        assert!(shown.contains(expected), "{expected} in {shown}");
        assert_eq!(problems.errors().count(), 1, "{shown}");
    }
    let dir = directory();
    let (_, problems) = config::load(&write(dir.path(), "include = [\"none-*.toml\"]"));
    assert!(
        problems.is_empty(),
        "a folder without such a file: {problems}"
    );
}
