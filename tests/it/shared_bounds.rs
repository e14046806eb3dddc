//! Every bound that clients share, as the table in `docs/operate.md` lists them: two addresses of one IPv6 /64 share it,
//! the networks of one /48 leave room, and two networks do not harm each other.
//!
//! Each row of the table has a case here, and a row without one fails. The clients come over a balancer that names them in
//! a PROXY header.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{IpAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Instant, SystemTime};

use rustls::ClientConnection;
use tidegate::activity::{ActivityTracker, RejectedRequest, Transfer};
use tidegate::metrics::{Operation, RejectionReason};
use tidegate::net::addr::{ClientNetworkGroup, PeerAddr};
use tidegate::server::Scheme;

use crate::support::certs;
use crate::support::client::connect_tcp;
use crate::support::h2::{H2Client, block_on, collect, send, wait_until};
use crate::support::proxy::TestConfig;
use crate::support::proxy::directory;
use crate::support::{
    Client, OK, PATIENCE, Proxy, Registry, TestRequest, TestResponse, config, pattern,
};
use crate::upstream_shares;

type Case = fn();

/// The rows of the table, each with its case.
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
const HOME: [&str; 2] = ["2001:db8:0:1::1", "2001:db8:0:1:ffff::2"];
/// Client networks that have nothing to do with it.
const OTHERS: [&str; 2] = ["2001:db8:ffff::1", "192.0.2.7"];

/// A client network of the same /48 as [`HOME`].
fn neighbour(number: usize) -> String {
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

/// `top` are tables, `keys` are keys of the table limits.
fn bounded(top: &str, keys: &str) -> TestConfig {
    let top = format!("{top}\n[state]\ndir = \"{{dir}}/state\"\n[limits]\n{keys}\n");
    let listen = "proxy_protocol = [\"127.0.0.1\"]\nadmin = \"127.0.0.1:0\"";
    config(&top, "").after("workers", listen)
}

fn socket(proxy: &Proxy, client: &str) -> TcpStream {
    let mut socket = connect_tcp(proxy.https());
    let (family, server) = match client.parse().unwrap() {
        IpAddr::V4(_) => ("TCP4", "10.0.0.1"),
        IpAddr::V6(_) => ("TCP6", "2001:db8:1::1"),
    };
    let header = format!("PROXY {family} {client} {server} 1 443\r\n");
    socket.write_all(header.as_bytes()).unwrap();
    socket
}

fn try_connect(proxy: &Proxy, client: &str) -> std::io::Result<Client> {
    let config = certs::default_client_config("http/1.1");
    let name = "localhost".try_into().unwrap();
    Client::of(
        ClientConnection::new(config, name).unwrap(),
        socket(proxy, client),
    )
}

fn connect(proxy: &Proxy, client: &str) -> Client {
    try_connect(proxy, client).expect("a connection")
}

async fn connect_h2(proxy: &Proxy, client: &str) -> H2Client {
    H2Client::behind(socket(proxy, client), certs::default_client_config("h2")).await
}

fn ask(proxy: &Proxy, client: &str, request: &TestRequest) -> TestResponse {
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
    for client in [HOME[0], HOME[0], HOME[1], HOME[1]] {
        open.push(connect(&proxy, client));
    }
    for client in HOME {
        assert!(
            try_connect(&proxy, client).is_err(),
            "a fifth one of {client}"
        );
    }
    // The /48 has half of all, from however many of its networks.
    for number in 0..10 {
        open.extend(try_connect(&proxy, &neighbour(number)));
    }
    assert_eq!(open.len(), 8);
    for client in OTHERS {
        assert_eq!(ask(&proxy, client, &login("alice:pw")).status, 200);
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
    let others = OTHERS.map(|client| connect(&proxy, client));
    block_on(async {
        let mut clients = Vec::new();
        for client in [HOME[0].to_owned(), HOME[1].to_owned(), neighbour(0)] {
            let mut client = connect_h2(&proxy, &client).await;
            // The answer brings the number of streams that are allowed.
            client.exchange(&TestRequest::new("GET", "/v2/")).await;
            clients.push(client);
        }
        let mut answers = Vec::new();
        for number in 0..300 {
            let wrong = login(&format!("nobody{number}:no"));
            answers.push(clients[0].start_request(&wrong).await.unwrap().0);
        }
        // Answered behind the flood on the same connection: it has all come.
        clients[0].exchange(&TestRequest::new("GET", "/v2/")).await;
        // Five at the same time, because the end of a check makes room for one of them.
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
        // Another network of the /48 has its turns beside the flood, and so have other networks.
        assert_eq!(clients[2].exchange(&login("alice:pw")).await.status, 200);
        for (mut other, user) in others.into_iter().zip(["bob", "carol"]) {
            assert_eq!(other.exchange(&login(&format!("{user}:pw"))).status, 200);
        }
        let mut busy = 0;
        for answer in answers {
            busy += usize::from(collect(answer.await.unwrap()).await.status == 503);
        }
        assert!(busy > 200, "{busy}");
    });
}

fn wrong_passwords() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::start(&registry, bounded("[throttle]\nguesses = 2\n", ""));
    let status = |client: &str, credentials: &str| ask(&proxy, client, &login(credentials)).status;
    assert_eq!(status(OTHERS[0], "alice:pw"), 200);
    assert_eq!(status(HOME[0], "alice:one"), 401);
    assert_eq!(status(HOME[1], "alice:two"), 401);
    for client in HOME {
        // The same answer for a wrong password and for the password of a user who works elsewhere.
        let wrong = ask(&proxy, client, &login("alice:three"));
        let right = ask(&proxy, client, &login("alice:pw"));
        wrong.assert_rejection(429, "TOOMANYREQUESTS");
        let after = |answer: &TestResponse| answer.header("retry-after").parse::<u64>().unwrap();
        assert!(after(&wrong).abs_diff(after(&right)) <= 2);
        assert_eq!((right.status, &right.body), (429, &wrong.body));
        assert_eq!(
            ask(&proxy, client, &TestRequest::new("GET", "/v2/")).status,
            401
        );
    }
    assert_eq!(status(OTHERS[0], "alice:pw"), 200);
    assert_eq!(status(OTHERS[1], "alice:pw"), 200);
    // The /48 has 32 times as many: two were made.
    let checked = (0..40).flat_map(|number| {
        let client = neighbour(number);
        ["a", "b"].map(|word| status(&client, &format!("alice:{word}{number}")))
    });
    let checked: Vec<_> = checked.collect();
    assert_eq!(checked.iter().filter(|status| **status == 401).count(), 62);
    assert_eq!(checked.iter().filter(|status| **status == 429).count(), 18);
    assert_eq!(status(OTHERS[1], "alice:wrong"), 401);
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
        // A form whose body is held back is under way.
        let mut held = Vec::new();
        let mut clients = Vec::new();
        for client in HOME {
            let mut client = connect_h2(&proxy, client).await;
            for _ in 0..16 {
                held.push(client.start_request(&form).await.unwrap());
            }
            // The next answer on the connection says that the heads before it were read.
            client.exchange(&TestRequest::new("GET", "/v2/")).await;
            clients.push(client);
        }
        for client in &mut clients {
            client
                .exchange(&form)
                .await
                .assert_rejection(503, "UNAVAILABLE");
        }
        // The /48 has half of all 256, from however many of its networks.
        let mut refused = 0;
        for number in 0..4 {
            let mut client = connect_h2(&proxy, &neighbour(number)).await;
            let mut begun = Vec::new();
            for _ in 0..32 {
                begun.push(client.start_request(&form).await.unwrap());
            }
            client.exchange(&TestRequest::new("GET", "/v2/")).await;
            let next = client.exchange(&form).await;
            refused += usize::from(next.status == 503);
            held.extend(begun);
            clients.push(client);
        }
        assert_eq!(refused, 4);
        for client in OTHERS {
            let mut client = connect_h2(&proxy, client).await;
            assert_eq!(client.exchange(&form).await.status, 200);
        }
        // Those that were taken in are answered when their bodies come.
        for (answer, mut sender) in held.into_iter().take(32) {
            send(&mut sender, body.as_bytes(), true).await.unwrap();
            assert_eq!(collect(answer.await.unwrap()).await.status, 200);
        }
    });
}

/// A registry that answers a list when it is told to, how many requests it has, and the sender that tells it.
fn closed_list() -> (Registry, Arc<AtomicUsize>, Sender<()>) {
    let (open, opened) = channel::<()>();
    let opened = Mutex::new(Some(opened));
    let count = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&count);
    let gate = Arc::new(std::sync::RwLock::new(()));
    let registry = Registry::start(move |exchange| {
        exchange.body();
        let _held;
        let first = opened.lock().unwrap().take();
        match first {
            // The first one keeps the others waiting.
            Some(opened) => {
                let closed = gate.write().unwrap();
                seen.fetch_add(1, Ordering::SeqCst);
                let _ = opened.recv_timeout(PATIENCE);
                drop(closed);
            }
            None => {
                seen.fetch_add(1, Ordering::SeqCst);
                _held = gate.read().unwrap();
            }
        }
        let body = "{\"repositories\":[]}";
        let length = body.len();
        exchange.send(format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
    });
    (registry, count, open)
}

/// `share` lists are walked at once for one client network, `all` in all.
fn lists(
    proxy: &Proxy,
    (count, open): (&AtomicUsize, Sender<()>),
    list: &TestRequest,
    (share, all): (usize, usize),
) {
    let begin = |client: &str, held: &mut Vec<Client>| {
        let mut client = connect(proxy, client);
        client.send(list.head());
        let expected = held.len() + 1;
        let until = Instant::now() + PATIENCE;
        while count.load(Ordering::SeqCst) < expected {
            assert!(Instant::now() < until, "list {expected} is not walked");
            std::thread::yield_now();
        }
        held.push(client);
    };
    let mut held = Vec::new();
    for number in 0..share {
        begin(HOME[number % 2], &mut held);
    }
    for client in HOME {
        ask(proxy, client, list).assert_rejection(503, "UNAVAILABLE");
    }
    // The /48 has half of all, from however many of its networks.
    for _ in share..all / 2 {
        begin(&neighbour(0), &mut held);
    }
    ask(proxy, &neighbour(1), list).assert_rejection(503, "UNAVAILABLE");
    for client in OTHERS {
        begin(client, &mut held);
    }
    drop(open);
    for mut client in held {
        assert_eq!(client.read_response("GET").status, 200);
    }
}

const GRANT: &str = "[[site.route.grant]]\nto = [\"@anonymous\"]\nrepositories = [\"public/**\"]\nactions = [\"pull\", \"catalog\"]\n";

fn granted() -> String {
    let text = bounded("", "").mode("token");
    format!("{text}\n{GRANT}")
}

fn lists_for_users() {
    let (registry, count, open) = closed_list();
    let proxy = Proxy::start(&registry, granted());
    let list = TestRequest::alice("GET", "/v2/_catalog");
    lists(&proxy, (&count, open), &list, (8, 32));
}

fn lists_without_a_login() {
    let (registry, count, open) = closed_list();
    let proxy = Proxy::start(&registry, granted());
    let answer = ask(
        &proxy,
        OTHERS[0],
        &TestRequest::new("GET", "/v2/_token?scope=registry:catalog:*"),
    );
    let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    let token = format!("Bearer {}", said["token"].as_str().unwrap());
    let list = TestRequest::new("GET", "/v2/_catalog").header("authorization", token);
    lists(&proxy, (&count, open), &list, (4, 16));
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
        let answer = client.read_response("GET");
        let name = "\ntidegate_http2_upload_memory_bytes ";
        let text = answer.text();
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
        begin(HOME[0], 0).await;
        wait_until(|| memory() > 7 * MIB / 2).await;
        begin(HOME[1], 1).await;
        begin(&neighbour(0), 2).await;
        wait_until(|| registry.requests().len() == 3).await;
        // Together they stay at half: in one turn each connection reads at most some hundred KiB beyond.
        let shared = memory();
        assert!(shared < 5 * MIB, "{shared}");
        begin(OTHERS[0], 3).await;
        wait_until(|| memory() > 11 * MIB / 2).await;
        drop(release);
        for upload in uploads {
            assert_eq!(upload.await.unwrap(), 200);
        }
    });
}

fn group(client: &str) -> ClientNetworkGroup {
    let address: IpAddr = client.parse().unwrap();
    PeerAddr::new((address, 1).into())
        .client()
        .network()
        .group()
}

fn transfers() {
    let activity = Arc::<ActivityTracker>::default();
    let show = |client: &str| {
        let texts = ["alice", client, "localhost", "team/app"];
        let transfer = Transfer::new(Operation::Pull, texts, Instant::now());
        activity.start_transfer(group(client), transfer)
    };
    let mut shown = Vec::new();
    for number in 0..20_000 {
        let client = match number % 3 {
            0 | 1 => HOME[number % 3].to_owned(),
            _ => neighbour(number % 60_000),
        };
        shown.extend(show(&client));
    }
    assert_eq!(shown.len(), 5_000);
    for client in OTHERS {
        let other = show(client);
        assert!(other.is_some(), "{client} is not listed");
        shown.extend(other);
    }
    assert!(show(HOME[0]).is_none() && show(HOME[1]).is_none());
}

fn rejections() {
    let activity = ActivityTracker::default();
    let reject = |client: &str| {
        activity.record_rejection(group(client), || RejectedRequest {
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
    for client in OTHERS {
        reject(client);
    }
    for number in 0..200 {
        reject(HOME[number % 2]);
        reject(&neighbour(number));
    }
    let listed = activity.recent_rejections();
    for client in OTHERS {
        assert!(listed.iter().any(|one| one.client == client), "{client}");
    }
    assert_eq!(listed[0].client, neighbour(199));
}
