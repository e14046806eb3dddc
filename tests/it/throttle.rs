//! Guessing is slowed: what a guesser meets, and that nobody else notices him.

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::support::h2::{H2Client, block_on, collect};
use crate::support::proxy::TestConfig;
use crate::support::proxy::{ALICE, directory};
use crate::support::{
    Client, HttpVersion, Proxy, Registry, TestRequest, TestResponse, config, eventually, exchange,
};

/// Other addresses of this machine; clients come from 127.0.0.1 unless a test says otherwise.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const FLOODER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const VICTIM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 4);

fn with(registry: &Registry, throttle: &str) -> Proxy {
    Proxy::start(registry, config(&throttled(throttle), ""))
}

fn throttled(keys: &str) -> String {
    format!("[throttle]\n{keys}\n")
}

fn login(credentials: &str) -> TestRequest {
    TestRequest::new("GET", "/v2/").basic_auth(credentials.as_bytes())
}

fn one(proxy: &Proxy, credentials: &str) -> TestResponse {
    exchange(proxy, HttpVersion::Http1, &login(credentials))
}

/// Guesses at alice, each another one, all of them taken for what they are.
#[track_caller]
fn guess(proxy: &Proxy, http: HttpVersion, count: usize) {
    for number in 0..count {
        let wrong = login(&format!("alice:{http:?}{number}"));
        exchange(proxy, http, &wrong).assert_rejection(401, "UNAUTHORIZED");
    }
}

#[track_caller]
fn assert_throttled(answer: &TestResponse, most: u32) {
    answer.assert_rejection(429, "TOOMANYREQUESTS");
    let after: u32 = answer.header("retry-after").parse().unwrap();
    assert!((1..=most).contains(&after), "{after}");
}

/// A route in mode token, its endpoint at `/v2/_token`.
fn token_config() -> TestConfig {
    config("[state]\ndir = \"{dir}/state\"\n", "").mode("token")
}

#[test]
fn the_eleventh_different_guess_is_too_many() {
    for http in HttpVersion::BOTH {
        let registry = Registry::accepting_all();
        let proxy = Proxy::with_defaults(&registry);
        guess(&proxy, http, 10);
        for credentials in ["alice:eleven", "nobody:eleven", "alice:pw"] {
            assert_throttled(&exchange(&proxy, http, &login(credentials)), 301);
        }
        // Who has no credentials is asked for them as ever.
        let bare = exchange(&proxy, http, &TestRequest::new("GET", "/v2/"));
        bare.assert_rejection(401, "UNAUTHORIZED");
        assert!(registry.requests().is_empty());
    }
}

#[test]
fn the_same_wrong_password_is_one_guess() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        for _ in 0..15 {
            exchange(&proxy, http, &login("alice:same")).assert_rejection(401, "UNAUTHORIZED");
        }
    }
    block_on(async {
        let mut client = H2Client::connect(&proxy).await;
        let mut answers = Vec::new();
        for _ in 0..5 {
            answers.push(client.start_request(&login("alice:other")).await.unwrap().0);
        }
        for answer in answers {
            let answer = collect(answer.await.unwrap()).await;
            answer.assert_rejection(401, "UNAUTHORIZED");
        }
    });
    // Two so far.
    guess(&proxy, HttpVersion::Http1, 8);
    assert_throttled(&one(&proxy, "alice:eleven"), 301);
    one(&proxy, "alice:same").assert_rejection(401, "UNAUTHORIZED");
}

#[test]
fn who_is_remembered_goes_on_also_after_reloads() {
    let registry = Registry::accepting_all();
    let proxy = with(&registry, "guesses = 3");
    assert_eq!(one(&proxy, "alice:pw").status, 200);
    guess(&proxy, HttpVersion::Http1, 3);
    let throttle = throttled("guesses = 3");
    let threads = format!("{throttle}[limits]\nhash_threads = 3\n");
    for top in [throttle, threads] {
        assert_eq!(one(&proxy, "alice:pw").status, 200);
        assert_throttled(&one(&proxy, "alice:four"), 301);
        proxy.configure(&registry, config(&top, ""));
        proxy.reload().unwrap();
    }
    assert_eq!(one(&proxy, "alice:pw").status, 200);
    assert_throttled(&one(&proxy, "alice:four"), 301);
}

#[test]
fn another_address_is_not_concerned() {
    let registry = Registry::accepting_all();
    let proxy = with(&registry, "guesses = 3");
    guess(&proxy, HttpVersion::Http1, 3);
    assert_throttled(&one(&proxy, "alice:pw"), 301);
    let mut elsewhere = Client::connect_from(ELSEWHERE, &proxy);
    let wrong = elsewhere.exchange(&login("alice:four"));
    wrong.assert_rejection(401, "UNAUTHORIZED");
    assert_eq!(elsewhere.exchange(&login("alice:pw")).status, 200);
}

#[test]
fn a_right_login_forgives_the_guesses_at_its_own_user() {
    let registry = Registry::accepting_all();
    let proxy = with(&registry, "guesses = 4");
    one(&proxy, "bob:0").assert_rejection(401, "UNAUTHORIZED");
    guess(&proxy, HttpVersion::Http1, 2);
    assert_eq!(one(&proxy, "alice:pw").status, 200);
    // The one at bob still counts: three more, not four.
    guess(&proxy, HttpVersion::Http1, 3);
    assert_throttled(&one(&proxy, "alice:four"), 301);
}

#[test]
fn a_guess_ceases_to_count() {
    let registry = Registry::accepting_all();
    let proxy = with(&registry, "guesses = 2\nwindow = \"1s\"");
    // On a slow machine more than two may fit.
    let mut refused = None;
    for number in 0..50 {
        let answer = one(&proxy, &format!("alice:{number}"));
        if answer.status != 401 {
            assert_throttled(&answer, 2);
            refused = Some(number);
            break;
        }
    }
    assert!(refused.expect("a refusal") >= 2);
    eventually("the network may try again", || {
        one(&proxy, "alice:pw").status == 200
    });
}

#[test]
fn none_is_no_limit_and_a_reload_changes_it() {
    let registry = Registry::accepting_all();
    let proxy = with(&registry, "guesses = 0");
    guess(&proxy, HttpVersion::Http1, 30);
    let set = |throttle: &str| {
        proxy.configure(&registry, config(&throttled(throttle), ""));
        proxy.reload().unwrap();
    };
    set("guesses = 3");
    guess(&proxy, HttpVersion::Http1, 3);
    assert_throttled(&one(&proxy, "alice:more"), 301);
    set("guesses = 4");
    one(&proxy, "alice:more").assert_rejection(401, "UNAUTHORIZED");
    assert_throttled(&one(&proxy, "alice:pw"), 301);
    set("guesses = 0");
    assert_eq!(one(&proxy, "alice:pw").status, 200);
}

#[test]
fn the_token_endpoint_counts_and_tokens_pass() {
    let registry = Registry::accepting_all();
    let form = |password: &str| {
        let body =
            format!("grant_type=password&username=alice&password={password}&service=localhost");
        TestRequest::new("POST", "/v2/_token")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body)
    };
    let get = |credentials: &str| {
        TestRequest::new("GET", "/v2/_token").basic_auth(credentials.as_bytes())
    };
    for http in HttpVersion::BOTH {
        let proxy = Proxy::start(&registry, token_config());
        let granted = exchange(&proxy, http, &get("alice:pw"));
        assert_eq!(granted.status, 200, "{granted:?}");
        let said: serde_json::Value = serde_json::from_slice(&granted.body).unwrap();
        let token = said["token"].as_str().unwrap();
        for number in 0..5 {
            let wrong = exchange(&proxy, http, &get(&format!("alice:get{number}")));
            wrong.assert_rejection(401, "UNAUTHORIZED");
            let wrong = exchange(&proxy, http, &form(&format!("form{number}")));
            wrong.assert_rejection(401, "UNAUTHORIZED");
        }
        assert_throttled(&exchange(&proxy, http, &get("alice:more")), 301);
        assert_throttled(&exchange(&proxy, http, &form("more")), 301);
        assert_throttled(&exchange(&proxy, http, &login("alice:more")), 301);
        let shown =
            TestRequest::new("GET", "/v2/").header("authorization", format!("Bearer {token}"));
        assert_eq!(exchange(&proxy, http, &shown).status, 200);
        assert_eq!(exchange(&proxy, http, &form("pw")).status, 200);
    }
}

#[test]
fn a_network_without_guesses_is_not_told_which_password_of_another_network_is_right() {
    let registry = Registry::accepting_all();
    let get = |credentials: &str| {
        TestRequest::new("GET", "/v2/_token").basic_auth(credentials.as_bytes())
    };
    for http in HttpVersion::BOTH {
        for (text, request) in [
            (config("", ""), login as fn(&str) -> TestRequest),
            (token_config(), get),
        ] {
            let proxy = Proxy::start(&registry, &text);
            let mut elsewhere = Client::connect_from(ELSEWHERE, &proxy);
            assert_eq!(elsewhere.exchange(&request("alice:pw")).status, 200);
            guess(&proxy, http, 10);
            let alike = |answer: TestResponse| {
                assert_throttled(&answer, 301);
                let (status, mut fields, body) = answer.without_request_id();
                fields.retain(|(name, _)| name != "retry-after");
                (status, fields, body)
            };
            let mut took = Vec::new();
            let answers = ["alice:pw", "alice:eleven", "nobody:pw"].map(|credentials| {
                let began = Instant::now();
                let answer = exchange(&proxy, http, &request(credentials));
                took.push(began.elapsed());
                alike(answer)
            });
            assert!(
                answers.iter().all(|answer| *answer == answers[0]),
                "{answers:?}"
            );
            let least = Duration::from_secs(1);
            assert!(took.iter().all(|took| *took >= least), "{took:?}");
            // Who proved the login goes on, and so does a guesser's neighbour elsewhere.
            assert_eq!(elsewhere.exchange(&request("alice:pw")).status, 200);
            let mut third = Client::connect_from(VICTIM, &proxy);
            assert_eq!(third.exchange(&request("alice:pw")).status, 200);
        }
    }
}

#[test]
fn everyone_logs_in_at_once_from_one_network_and_from_many() {
    let registry = Registry::accepting_all();
    for networks in [1, 120] {
        let dir = directory();
        let hash = bcrypt::hash("pw", 8).unwrap();
        let lines: String = (0..120)
            .map(|number| format!("u{number}:{hash}\n"))
            .collect();
        fs::write(dir.path().join("htpasswd"), lines).unwrap();
        let limits = "[limits]\nhash_threads = 1\n";
        let proxy = Proxy::start_in(dir, &registry.url(), config(limits, ""));
        std::thread::scope(|scope| {
            for number in 0..120_u8 {
                let proxy = &proxy;
                scope.spawn(move || {
                    let source = Ipv4Addr::new(127, 0, 1, 1 + number % networks);
                    let mut client = Client::connect_from(source, proxy);
                    let answer = client.exchange(&login(&format!("u{number}:pw")));
                    assert_eq!(answer.status, 200, "u{number}: {}", answer.text());
                });
            }
        });
    }
}

#[test]
fn an_office_logs_in_at_once() {
    let registry = Registry::accepting_all();
    let dir = directory();
    let line = |number| format!("u{number}:{}\n", bcrypt::hash("pw", 6).unwrap());
    let lines: String = (0..50).map(line).collect();
    fs::write(dir.path().join("htpasswd"), lines).unwrap();
    let proxy = Proxy::start_in(dir, &registry.url(), config("", ""));
    block_on(async {
        let mut client = H2Client::connect(&proxy).await;
        let mut answers = Vec::new();
        for number in 0..50 {
            let own = login(&format!("u{number}:pw"));
            answers.push(client.start_request(&own).await.unwrap().0);
        }
        for (number, answer) in answers.into_iter().enumerate() {
            let answer = collect(answer.await.unwrap()).await;
            assert_eq!(answer.status, 200, "u{number}: {}", answer.text());
        }
    });
}

#[test]
fn a_flood_keeps_nobody_else_out() {
    let registry = Registry::accepting_all();
    let dir = directory();
    let line = format!("alice:{}\n", bcrypt::hash("pw", 8).unwrap());
    fs::write(dir.path().join("htpasswd"), line).unwrap();
    let limits = "[limits]\nhash_threads = 1\nhash_queue = 16\nh2_streams = 400\n";
    let top = throttled("guesses = 0") + limits;
    let proxy = Proxy::start_in(dir, &registry.url(), config(&top, ""));
    let mut victim = Client::connect_from(VICTIM, &proxy);
    block_on(async {
        let mut flooder = H2Client::connect_from(FLOODER, &proxy).await;
        let mut answers = Vec::new();
        // One answer first, since it brings the number of streams that are allowed.
        flooder.exchange(&TestRequest::new("GET", "/v2/")).await;
        for number in 0..300 {
            let wrong = login(&format!("nobody{number}:no"));
            answers.push(flooder.start_request(&wrong).await.unwrap().0);
        }
        // Answered behind the flood on the same connection: it has all come.
        let bare = flooder.exchange(&TestRequest::new("GET", "/v2/")).await;
        bare.assert_rejection(401, "UNAUTHORIZED");
        assert_eq!(victim.exchange(&login("alice:pw")).status, 200);
        let mut busy = 0;
        for answer in answers {
            let answer = collect(answer.await.unwrap()).await;
            if answer.status == 503 {
                answer.assert_rejection(503, "UNAVAILABLE");
                assert!(answer.header("retry-after").parse::<u32>().is_ok());
                busy += 1;
            } else {
                answer.assert_rejection(401, "UNAUTHORIZED");
            }
        }
        assert!(busy > 0, "three hundred checks fitted a queue of sixteen");
    });
}

#[test]
fn a_401_does_not_tell_who_is_known() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    assert!(ALICE.starts_with("alice:"));
    for http in HttpVersion::BOTH {
        let known = exchange(&proxy, http, &login("alice:wrong"));
        let unknown = exchange(&proxy, http, &login("nobody:wrong"));
        known.assert_rejection(401, "UNAUTHORIZED");
        assert_eq!(known.without_request_id(), unknown.without_request_id());
    }
}

#[test]
fn what_is_out_of_bounds_is_named() {
    let registry = Registry::accepting_all();
    for (keys, key) in [
        ("guesses = 1001", "throttle.guesses"),
        ("window = \"0s\"", "throttle.window"),
    ] {
        let text = config(&throttled(keys), "");
        let refused = Proxy::try_start(directory(), &registry.url(), &text);
        let problems = refused.err().expect("a refusal").to_string();
        assert!(problems.contains(key), "{key} in {problems}");
    }
}
