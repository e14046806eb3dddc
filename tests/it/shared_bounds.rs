//! The bounds that clients share, as the table in `docs/operate.md` lists them. Two addresses of one IPv6 /64 share a bound,
//! all networks of one /48 together leave capacity for others, and a client network cannot use up the share of another one.
//!
//! Each row of the table has a case in this file; a row without a case is a failure. The test takes the part of a balancer
//! that names the clients in PROXY headers.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use rustls::ClientConnection;
use tidegate::activity::{ActivityTracker, RejectedRequest, Transfer};
use tidegate::metrics::{Operation, RejectionReason};
use tidegate::net::addr::{ClientAddr, ClientNetwork};
use tidegate::server::Scheme;

use crate::support::certs;
use crate::support::client::connect_tcp_on_behalf_of;
use crate::support::h2::{H2Client, block_on, collect, send, wait_until};
use crate::support::proxy::TestConfig;
use crate::support::proxy::directory;
use crate::support::{
    Client, OK, PATIENCE, Proxy, Registry, TestRequest, TestResponse, config, pattern,
};
use crate::upstream_shares;

type Case = fn();

/// The rows of the table, each with its case. A case asserts that clients of one network share the bound.
const CASES: [(&str, Case); 12] = [
    ("Open connections", connections),
    (
        "Requests to one address of an upstream",
        upstream_shares::a_network_has_half_of_what_is_free_and_its_48_two_thirds,
    ),
    (
        "Requests that wait for an upstream",
        upstream_shares::requests_that_wait_give_way_to_networks_with_fewer,
    ),
    (
        "Requests that only wait for their own client",
        upstream_shares::an_unread_response_is_broken_off_when_too_many_are_unread,
    ),
    ("Password checks that wait", password_checks),
    ("Wrong passwords", wrong_passwords),
    ("Forms at the token endpoint", token_forms),
    ("Lists of repositories for users", lists_for_users),
    (
        "Lists of repositories without a login",
        lists_without_a_login,
    ),
    ("Unread HTTP/2 uploads", unread_uploads),
    ("Transfers on the status page", transfers),
    ("Rejections on the status page", rejections),
];

/// Two addresses of one client network.
const SAME_NETWORK: [&str; 2] = ["2001:db8:0:1::1", "2001:db8:0:1:ffff::2"];
/// Addresses of client networks outside of the /48 of [`SAME_NETWORK`].
const OTHER_NETWORKS: [&str; 2] = ["2001:db8:ffff::1", "192.0.2.7"];

/// An address of another client network in the /48 of [`SAME_NETWORK`].
fn network_in_same_48(number: usize) -> String {
    format!("2001:db8:0:{:x}::1", number + 2)
}

#[test]
fn every_row_of_the_table_has_a_case() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operate.md");
    let text = std::fs::read_to_string(path).unwrap();
    let section = text.split("\n## What clients share\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| "));
    let names = rows.map(|row| row.split('|').nth(1).unwrap().trim());
    let listed: BTreeSet<_> = names.filter(|name| *name != "bound").collect();
    let tested: BTreeSet<_> = CASES.iter().map(|(name, _)| *name).collect();
    assert_eq!(listed, tested);
}

#[test]
fn clients_of_one_network_share_each_bound_and_do_not_harm_other_networks() {
    for (name, case) in CASES {
        println!("{name}");
        case();
    }
}

/// A configuration with the tables `top` and with `keys` in the table `limits`.
fn bounded(top: &str, keys: &str) -> TestConfig {
    let top = format!("{top}\n[state]\ndir = \"{{dir}}/state\"\n[limits]\n{keys}\n");
    let listen = "proxy_protocol = [\"127.0.0.1\"]\nadmin = \"127.0.0.1:0\"";
    config(&top, "").after("workers", listen)
}

fn try_connect(proxy: &Proxy, client: &str) -> std::io::Result<Client> {
    let config = certs::default_client_config("http/1.1");
    let name = "localhost".try_into().unwrap();
    Client::start_tls(
        ClientConnection::new(config, name).unwrap(),
        connect_tcp_on_behalf_of(client, proxy.https()),
    )
}

fn connect(proxy: &Proxy, client: &str) -> Client {
    try_connect(proxy, client).expect("the proxy accepts the connection")
}

async fn connect_h2(proxy: &Proxy, client: &str) -> H2Client {
    H2Client::start_tls(
        connect_tcp_on_behalf_of(client, proxy.https()),
        certs::default_client_config("h2"),
    )
    .await
}

fn exchange_from(proxy: &Proxy, client: &str, request: &TestRequest) -> TestResponse {
    connect(proxy, client).exchange(request)
}

fn login(credentials: &str) -> TestRequest {
    TestRequest::new("GET", "/v2/").basic_auth(credentials.as_bytes())
}

fn connections() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(
        &registry,
        bounded("", "connections = 16\nconnections_per_client = 4"),
    );
    let mut open = Vec::new();
    for client in [
        SAME_NETWORK[0],
        SAME_NETWORK[0],
        SAME_NETWORK[1],
        SAME_NETWORK[1],
    ] {
        open.push(connect(&proxy, client));
    }
    for client in SAME_NETWORK {
        assert!(
            try_connect(&proxy, client).is_err(),
            "a fifth one of {client}"
        );
    }
    // One /48 gets half of all connections, whatever number of its networks takes part.
    for number in 0..10 {
        open.extend(try_connect(&proxy, &network_in_same_48(number)));
    }
    assert_eq!(open.len(), 8);
    for client in OTHER_NETWORKS {
        assert_eq!(
            exchange_from(&proxy, client, &login("alice:pw")).status,
            200
        );
    }
}

fn password_checks() {
    let registry = Registry::accepting_all();
    let dir = directory();
    let hash = bcrypt::hash("pw", 11).unwrap();
    let lines = ["alice", "bob", "carol"].map(|user| format!("{user}:{hash}\n"));
    std::fs::write(dir.path().join("htpasswd"), lines.concat()).unwrap();
    let top = "[throttle]\nguesses = 0\n";
    let keys = "hash_threads = 1\nhash_queue = 16\nh2_streams = 400";
    let proxy = Proxy::start_in(dir, &registry.url(), bounded(top, keys));
    let others = OTHER_NETWORKS.map(|client| connect(&proxy, client));
    block_on(async {
        let mut clients = Vec::new();
        for client in [
            SAME_NETWORK[0].to_owned(),
            SAME_NETWORK[1].to_owned(),
            network_in_same_48(0),
        ] {
            let mut client = connect_h2(&proxy, &client).await;
            // With the first response the client has the proxy's SETTINGS frame, which allows more streams.
            client.exchange(&TestRequest::new("GET", "/v2/")).await;
            clients.push(client);
        }
        let mut flood = Vec::new();
        for number in 0..300 {
            let wrong = login(&format!("nobody{number}:no"));
            flood.push(clients[0].start_request(&wrong).await.unwrap().0);
        }
        // The proxy reads the frames in order, so this response shows that the whole flood has arrived.
        clients[0].exchange(&TestRequest::new("GET", "/v2/")).await;
        // The client sends five requests at once, because a finished check makes room for one of them.
        let mut shared = Vec::new();
        for _ in 0..5 {
            shared.push(
                clients[1]
                    .start_request(&login("alice:pw"))
                    .await
                    .unwrap()
                    .0,
            );
        }
        let mut rejected = 0;
        for response in shared {
            let response = collect(response.await.unwrap()).await;
            if response.status != 200 {
                response.assert_rejection(503, "UNAVAILABLE");
                rejected += 1;
            }
        }
        assert!(rejected > 0, "the network has more than its share");
        // Another network of the /48 gets its turns beside the flood, as do other networks.
        assert_eq!(clients[2].exchange(&login("alice:pw")).await.status, 200);
        for (mut other, user) in others.into_iter().zip(["bob", "carol"]) {
            assert_eq!(other.exchange(&login(&format!("{user}:pw"))).status, 200);
        }
        let mut busy = 0;
        for response in flood {
            busy += usize::from(collect(response.await.unwrap()).await.status == 503);
        }
        assert!(busy > 200, "{busy}");
    });
}

fn wrong_passwords() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, bounded("[throttle]\nguesses = 2\n", ""));
    let status =
        |client: &str, credentials: &str| exchange_from(&proxy, client, &login(credentials)).status;
    assert_eq!(status(OTHER_NETWORKS[0], "alice:pw"), 200);
    assert_eq!(status(SAME_NETWORK[0], "alice:one"), 401);
    assert_eq!(status(SAME_NETWORK[1], "alice:two"), 401);
    for client in SAME_NETWORK {
        // A wrong and a correct password get the same response.
        let wrong = exchange_from(&proxy, client, &login("alice:three"));
        let correct = exchange_from(&proxy, client, &login("alice:pw"));
        wrong.assert_rejection(429, "TOOMANYREQUESTS");
        let after =
            |response: &TestResponse| response.header("retry-after").parse::<u64>().unwrap();
        assert!(after(&wrong).abs_diff(after(&correct)) <= 2);
        assert_eq!((correct.status, &correct.body), (429, &wrong.body));
        assert_eq!(
            exchange_from(&proxy, client, &TestRequest::new("GET", "/v2/")).status,
            401
        );
    }
    assert_eq!(status(OTHER_NETWORKS[0], "alice:pw"), 200);
    assert_eq!(status(OTHER_NETWORKS[1], "alice:pw"), 200);
    // The /48 may try 32 times as many passwords as one network: 64, of which the test has used two.
    let checked = (0..40).flat_map(|number| {
        let client = network_in_same_48(number);
        ["a", "b"].map(|word| status(&client, &format!("alice:{word}{number}")))
    });
    let checked: Vec<_> = checked.collect();
    assert_eq!(checked.iter().filter(|status| **status == 401).count(), 62);
    assert_eq!(checked.iter().filter(|status| **status == 429).count(), 18);
    assert_eq!(status(OTHER_NETWORKS[1], "alice:wrong"), 401);
}

fn token_forms() {
    let registry = Registry::accepting_all();
    let text = bounded("", "").mode("token");
    let proxy = Proxy::start(&registry, &text);
    let body = "grant_type=password&username=alice&password=pw&service=localhost";
    let form = TestRequest::new("POST", "/v2/_token")
        .header("content-type", "application/x-www-form-urlencoded")
        .body(body);
    block_on(async {
        // The client withholds the body of each form, so the request stays open.
        let mut held = Vec::new();
        let mut clients = Vec::new();
        for client in SAME_NETWORK {
            let mut client = connect_h2(&proxy, client).await;
            for _ in 0..16 {
                held.push(client.start_request(&form).await.unwrap());
            }
            // The proxy reads the frames in order, so this response shows that the heads before it were read.
            client.exchange(&TestRequest::new("GET", "/v2/")).await;
            clients.push(client);
        }
        for client in &mut clients {
            client
                .exchange(&form)
                .await
                .assert_rejection(503, "UNAVAILABLE");
        }
        // One /48 gets half of all 256 forms, whatever number of its networks takes part.
        let mut rejected = 0;
        for number in 0..4 {
            let mut client = connect_h2(&proxy, &network_in_same_48(number)).await;
            let mut begun = Vec::new();
            for _ in 0..32 {
                begun.push(client.start_request(&form).await.unwrap());
            }
            client.exchange(&TestRequest::new("GET", "/v2/")).await;
            let next = client.exchange(&form).await;
            rejected += usize::from(next.status == 503);
            held.extend(begun);
            clients.push(client);
        }
        assert_eq!(rejected, 4);
        for client in OTHER_NETWORKS {
            let mut client = connect_h2(&proxy, client).await;
            assert_eq!(client.exchange(&form).await.status, 200);
        }
        // The accepted forms get their responses after their bodies have arrived.
        for (response, mut sender) in held.into_iter().take(32) {
            send(&mut sender, body.as_bytes(), true).await.unwrap();
            assert_eq!(collect(response.await.unwrap()).await.status, 200);
        }
    });
}

/// A registry that withholds its list of repositories until the returned sender is dropped, and the number of requests so far.
fn registry_with_withheld_list() -> (Registry, Arc<AtomicUsize>, Sender<()>) {
    let (release, released) = channel::<()>();
    let released = Mutex::new(Some(released));
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let barrier = Arc::new(std::sync::RwLock::new(()));
    let registry = Registry::start(move |exchange| {
        exchange.body();
        let _held;
        let first = released.lock().unwrap().take();
        match first {
            // The first request holds the lock, so that the other requests wait.
            Some(released) => {
                let closed = barrier.write().unwrap();
                seen.fetch_add(1, Ordering::SeqCst);
                let _ = released.recv_timeout(PATIENCE);
                drop(closed);
            }
            None => {
                seen.fetch_add(1, Ordering::SeqCst);
                _held = barrier.read().unwrap();
            }
        }
        let body = "{\"repositories\":[]}";
        let length = body.len();
        exchange.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
    });
    (registry, count, release)
}

/// Asserts that the proxy reads at most `share` lists at once for one client network, and `all` lists in total.
fn assert_lists_are_bounded(
    proxy: &Proxy,
    (count, release): (&AtomicUsize, Sender<()>),
    list: &TestRequest,
    (share, all): (usize, usize),
) {
    let begin = |client: &str, held: &mut Vec<Client>| {
        let mut client = connect(proxy, client);
        client.send(list.head());
        let expected = held.len() + 1;
        let until = Instant::now() + PATIENCE;
        while count.load(Ordering::SeqCst) < expected {
            assert!(
                Instant::now() < until,
                "the proxy does not request list {expected}"
            );
            std::thread::yield_now();
        }
        held.push(client);
    };
    let mut held = Vec::new();
    for number in 0..share {
        begin(SAME_NETWORK[number % 2], &mut held);
    }
    for client in SAME_NETWORK {
        exchange_from(proxy, client, list).assert_rejection(503, "UNAVAILABLE");
    }
    // One /48 gets half of all lists, whatever number of its networks takes part.
    for _ in share..all / 2 {
        begin(&network_in_same_48(0), &mut held);
    }
    exchange_from(proxy, &network_in_same_48(1), list).assert_rejection(503, "UNAVAILABLE");
    for client in OTHER_NETWORKS {
        begin(client, &mut held);
    }
    drop(release);
    for mut client in held {
        assert_eq!(client.read_response("GET").status, 200);
    }
}

const GRANT: &str = "[[site.route.grant]]\nto = [\"@anonymous\"]\nrepositories = [\"public/**\"]\nactions = [\"pull\", \"catalog\"]\n";

/// A configuration in mode `token` with [`GRANT`].
fn config_with_grant() -> String {
    let text = bounded("", "").mode("token");
    format!("{text}\n{GRANT}")
}

fn lists_for_users() {
    let (registry, count, release) = registry_with_withheld_list();
    let proxy = Proxy::start(&registry, config_with_grant());
    let list = TestRequest::alice("GET", "/v2/_catalog");
    assert_lists_are_bounded(&proxy, (&count, release), &list, (8, 32));
}

fn lists_without_a_login() {
    let (registry, count, release) = registry_with_withheld_list();
    let proxy = Proxy::start(&registry, config_with_grant());
    let response = exchange_from(
        &proxy,
        OTHER_NETWORKS[0],
        &TestRequest::new("GET", "/v2/_token?scope=registry:catalog:*"),
    );
    let issued: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
    let token = format!("Bearer {}", issued["token"].as_str().unwrap());
    let list = TestRequest::new("GET", "/v2/_catalog").header("authorization", token);
    assert_lists_are_bounded(&proxy, (&count, release), &list, (4, 16));
}

fn unread_uploads() {
    const MIB: usize = 1 << 20;
    let (release, held) = channel::<()>();
    let held = Mutex::new(held);
    let registry = Registry::start(move |exchange| {
        let _ = held.lock().unwrap().recv_timeout(PATIENCE);
        exchange.body();
        exchange.send(OK);
    });
    let keys = "h2_memory = \"8MiB\"\nh2_window = \"16MiB\"\nh2_connection_window = \"16MiB\"";
    let proxy = Proxy::start(&registry, bounded("", keys));
    let memory = || {
        let mut client = Client::plain(proxy.listener(Scheme::Admin));
        client.send("GET /metrics HTTP/1.0\r\n\r\n");
        let response = client.read_response("GET");
        let name = "\ntidegate_http2_upload_memory_bytes ";
        let text = response.text();
        let value = text.split(name).nth(1).unwrap().lines().next().unwrap();
        value.parse::<usize>().unwrap()
    };
    block_on(async {
        let mut uploads = Vec::new();
        let mut begin = async |client: &str, number: usize| {
            let mut client = connect_h2(&proxy, client).await;
            uploads.push(tokio::spawn(async move {
                let target = format!("/v2/a/blobs/uploads/{number}");
                let request = TestRequest::alice("PATCH", &target).body(pattern(12 * MIB));
                client.exchange(&request).await.status
            }));
        };
        begin(SAME_NETWORK[0], 0).await;
        wait_until(|| memory() > 7 * MIB / 2).await;
        begin(SAME_NETWORK[1], 1).await;
        begin(&network_in_same_48(0), 2).await;
        wait_until(|| registry.requests().len() == 3).await;
        // All networks of the /48 together stay at half of the memory. Each connection may exceed the bound by a few hundred
        // KiB, because the proxy checks the bound before a read.
        let shared = memory();
        assert!(shared < 5 * MIB, "{shared}");
        begin(OTHER_NETWORKS[0], 3).await;
        wait_until(|| memory() > 11 * MIB / 2).await;
        drop(release);
        for upload in uploads {
            assert_eq!(upload.await.unwrap(), 200);
        }
    });
}

fn network(client: &str) -> ClientNetwork {
    ClientAddr::new(client.parse().unwrap()).network()
}

fn transfers() {
    let activity = Arc::<ActivityTracker>::default();
    let show = |client: &str| {
        let texts = ["alice", client, "localhost", "team/app"];
        let transfer = Transfer::new(Operation::Pull, texts, Instant::now());
        activity.start_transfer(network(client), transfer)
    };
    let mut shown = Vec::new();
    for number in 0..20_000 {
        let client = match number % 3 {
            0 | 1 => SAME_NETWORK[number % 3].to_owned(),
            _ => network_in_same_48(number % 60_000),
        };
        shown.extend(show(&client));
    }
    assert_eq!(shown.len(), 5_000);
    for client in OTHER_NETWORKS {
        let other = show(client);
        assert!(other.is_some(), "{client} is not listed");
        shown.extend(other);
    }
    assert!(show(SAME_NETWORK[0]).is_none() && show(SAME_NETWORK[1]).is_none());
}

fn rejections() {
    let activity = ActivityTracker::default();
    let reject = |client: &str| {
        activity.record_rejection(network(client), || RejectedRequest {
            at: SystemTime::now(),
            first_at: SystemTime::now(),
            count: 1,
            client: client.to_owned(),
            user: String::new(),
            site: String::new(),
            request: "GET /v2/".to_owned(),
            reason: RejectionReason::WrongPassword,
            message: String::new(),
        });
    };
    for client in OTHER_NETWORKS {
        reject(client);
    }
    for number in 0..200 {
        reject(SAME_NETWORK[number % 2]);
        reject(&network_in_same_48(number));
    }
    let listed = activity.recent_rejections();
    for client in OTHER_NETWORKS {
        assert!(listed.iter().any(|one| one.client == client), "{client}");
    }
    assert_eq!(listed[0].client, network_in_same_48(199));
}
