//! The files of a user interface behind a route with another path than the upstream's, served by nginx.

use std::fs;

use crate::lab::{Curl, Lab, Service, free_port, is_listening};

/// Starts nginx, which serves a page below `/app/`, redirects to its own address, and sets a cookie with its own path.
fn with_pages(mut lab: Lab) -> (Lab, Service) {
    let port = free_port();
    let dir = lab.path("ui");
    fs::create_dir_all(dir.join("app/docs")).unwrap();
    fs::write(dir.join("app/index.html"), "the first page").unwrap();
    fs::write(dir.join("app/docs/index.html"), "the second page").unwrap();
    let folder = dir.display();
    let config = format!(
        "daemon off; user root; pid {folder}/nginx.pid; error_log stderr;\nevents {{}}\n\
         http {{ access_log off; client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f; \
         uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n\
         server {{ listen 127.0.0.1:{port}; root {folder}; add_header Set-Cookie \"theme=dark; Path=/app/\"; }} }}\n"
    );
    fs::write(dir.join("nginx.conf"), config).unwrap();
    let mut command = lab.command("nginx");
    command
        .args(["-e", "stderr", "-c"])
        .arg(dir.join("nginx.conf"));
    let mut pages = Service::start("ui", &command, &lab.path(""));
    pages.wait_until(|| is_listening(port));
    lab.add_tables(&format!(
        "[[site.route]]\npath = \"/ui/\"\nupstream = \"http://127.0.0.1:{port}/app/\"\nregistry = false\n\
         auth = {{ mode = \"none\" }}\n"
    ));
    (lab, pages)
}

#[test]
fn pages_redirects_and_cookies_of_a_static_server_are_below_the_path_of_the_route() {
    let (lab, _pages) = with_pages(Lab::start());
    for version in ["--http1.1", "--http2"] {
        let curl = Curl::new(&lab, version);
        let page = curl.request("/ui/", &[]);
        assert_eq!(
            (page.status, page.body.as_slice()),
            (200, &b"the first page"[..])
        );
        assert_eq!(page.field("set-cookie"), "theme=dark; Path=/ui");
        // nginx adds the missing slash with an absolute Location of its own address.
        let redirect = curl.request("/ui/docs", &[]);
        assert_eq!(redirect.status, 301);
        assert_eq!(redirect.field("location"), lab.url("/ui/docs/"));
        let followed = curl.request("/ui/docs", &["--location"]);
        assert_eq!(
            (followed.status, followed.body.as_slice()),
            (200, &b"the second page"[..])
        );
        assert_eq!(curl.request("/app/", &[]).status, 404);
    }
}
