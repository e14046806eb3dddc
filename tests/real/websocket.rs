//! WebSockets with a real client and a real server, the Python library websockets.

use crate::lab::{Lab, Service, free_port, is_listening, run, wait_until, websocket_peers};

/// A server, and a lab with a route to it at `/ui/`.
pub(crate) fn with_server(mut lab: Lab) -> (Lab, Service) {
    let port = free_port();
    let command = websocket_peers(&lab, &["serve", &port.to_string()]);
    let mut server = Service::start("websocket", &command, &lab.path(""));
    server.wait_until(|| is_listening(port));
    let dir = lab.path("").display().to_string();
    lab.add_tables(&format!(
        "[[site.route]]\npath = \"/ui/\"\nupstream = \"http://127.0.0.1:{port}\"\nregistry = false\n\
         auth = {{ mode = \"basic\", htpasswd = \"{dir}/htpasswd\", realm = \"UI\" }}\n"
    ));
    (lab, server)
}

/// Runs the client, with a login or without one, and returns what it prints.
pub(crate) fn client(lab: &Lab, command: &str, is_logged_in: bool) -> String {
    let url = format!("wss://{}/ui/socket", lab.host());
    let ca = lab.certs().ca();
    let mut client = websocket_peers(lab, &[command, &url, ca.to_str().unwrap()]);
    if is_logged_in {
        client.env("LOGIN", Lab::credentials());
    }
    run(&client).succeeds().trim().to_owned()
}

#[test]
fn messages_of_every_size_pass_after_the_login_and_are_logged() {
    let (lab, _server) = with_server(Lab::start());
    assert_eq!(client(&lab, "refused", false), "401");
    assert_eq!(client(&lab, "talk", true), "done");
    wait_until("both tunnels are logged", || {
        let log = lab.access_log();
        let lines = log
            .iter()
            .filter(|line| line.contains(" path=/ui/socket ") && line.contains(" status=101 "));
        let whole =
            lines.filter(|line| line.contains(" user=alice ") && !line.contains("termination="));
        whole.count() == 2
    });
}
