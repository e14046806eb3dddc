//! The guess limiter: a client network that guesses passwords is throttled, and other client networks are not affected.

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::support::h2::{H2Client, block_on, collect};
use crate::support::proxy::TestConfig;
use crate::support::proxy::{ALICE, directory};
use crate::support::{
    Client, HttpVersion, Proxy, Registry, TestRequest, TestResponse, config, eventually, exchange,
};

/// Other addresses of this machine. Clients connect from 127.0.0.1 unless a test uses one of these.
const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const FLOODER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);
const VICTIM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 4);

fn start(registry: &Registry, throttle: &str) -> Proxy {
    Proxy::start(registry, config(&throttle_table(throttle), ""))
}

fn throttle_table(keys: &str) -> String {
    format!("[throttle]\n{keys}\n")
}

fn login(credentials: &str) -> TestRequest {
    TestRequest::new("GET", "/v2/").basic_auth(credentials.as_bytes())
}

fn log_in(proxy: &Proxy, credentials: &str) -> TestResponse {
    exchange(proxy, HttpVersion::Http1, &login(credentials))
}

/// Sends `count` different wrong passwords for alice, and asserts that each gets 401.
#[track_caller]
fn guess(proxy: &Proxy, http: HttpVersion, count: usize) {
    for number in 0..count {
        let wrong = login(&format!("alice:{http:?}{number}"));
        exchange(proxy, http, &wrong).assert_rejection(401, "UNAUTHORIZED");
    }
}

#[track_caller]
fn assert_throttled(response: &TestResponse, most: u32) {
    response.assert_rejection(429, "TOOMANYREQUESTS");
    let after: u32 = response.header("retry-after").parse().unwrap();
    assert!((1..=most).contains(&after), "{after}");
}

/// A configuration in mode token, whose token endpoint is `/v2/_token`.
fn token_config() -> TestConfig {
    config("[state]\ndir = \"{dir}/state\"\n", "").mode("token")
}

#[test]
fn the_eleventh_different_guess_gets_429() {
    for http in HttpVersion::BOTH {
        let registry = Registry::accepting_all();
        let proxy = Proxy::with_defaults(&registry);
        guess(&proxy, http, 10);
        for credentials in ["alice:eleven", "nobody:eleven", "alice:pw"] {
            assert_throttled(&exchange(&proxy, http, &login(credentials)), 301);
        }
        // A request without credentials gets 401 as before.
        let anonymous = exchange(&proxy, http, &TestRequest::new("GET", "/v2/"));
        anonymous.assert_rejection(401, "UNAUTHORIZED");
        assert!(registry.requests().is_empty());
    }
}

#[test]
fn the_same_wrong_password_counts_as_one_guess() {
    let registry = Registry::accepting_all();
    let proxy = Proxy::with_defaults(&registry);
    for http in HttpVersion::BOTH {
        for _ in 0..15 {
            exchange(&proxy, http, &login("alice:same")).assert_rejection(401, "UNAUTHORIZED");
        }
    }
    block_on(async {
        let mut client = H2Client::connect(&proxy).await;
        let mut responses = Vec::new();
        for _ in 0..5 {
            responses.push(client.start_request(&login("alice:other")).await.unwrap().0);
        }
        for response in responses {
            let response = collect(response.await.unwrap()).await;
            response.assert_rejection(401, "UNAUTHORIZED");
        }
    });
    // The requests above count as two guesses.
    guess(&proxy, HttpVersion::Http1, 8);
    assert_throttled(&log_in(&proxy, "alice:eleven"), 301);
    log_in(&proxy, "alice:same").assert_rejection(401, "UNAUTHORIZED");
}

#[test]
fn a_cached_login_is_not_throttled_even_after_reloads() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry, "guesses = 3");
    assert_eq!(log_in(&proxy, "alice:pw").status, 200);
    guess(&proxy, HttpVersion::Http1, 3);
    let throttle = throttle_table("guesses = 3");
    let threads = format!("{throttle}[limits]\nhash_threads = 3\n");
    for top in [throttle, threads] {
        assert_eq!(log_in(&proxy, "alice:pw").status, 200);
        assert_throttled(&log_in(&proxy, "alice:four"), 301);
        proxy.configure(&registry, config(&top, ""));
        proxy.reload().unwrap();
    }
    assert_eq!(log_in(&proxy, "alice:pw").status, 200);
    assert_throttled(&log_in(&proxy, "alice:four"), 301);
}

#[test]
fn another_client_network_is_not_throttled() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry, "guesses = 3");
    guess(&proxy, HttpVersion::Http1, 3);
    assert_throttled(&log_in(&proxy, "alice:pw"), 301);
    let mut elsewhere = Client::connect_from(ELSEWHERE, &proxy);
    let wrong = elsewhere.exchange(&login("alice:four"));
    wrong.assert_rejection(401, "UNAUTHORIZED");
    assert_eq!(elsewhere.exchange(&login("alice:pw")).status, 200);
}

#[test]
fn a_successful_login_clears_the_guesses_for_its_user() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry, "guesses = 4");
    log_in(&proxy, "bob:0").assert_rejection(401, "UNAUTHORIZED");
    guess(&proxy, HttpVersion::Http1, 2);
    assert_eq!(log_in(&proxy, "alice:pw").status, 200);
    // The guess for bob still counts, so that three more guesses are allowed, not four.
    guess(&proxy, HttpVersion::Http1, 3);
    assert_throttled(&log_in(&proxy, "alice:four"), 301);
}

#[test]
fn a_guess_no_longer_counts_after_the_window() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry, "guesses = 2\nwindow = \"1s\"");
    // On a slow machine, guesses may expire meanwhile, so that more than two get 401.
    let mut refused = None;
    for number in 0..50 {
        let response = log_in(&proxy, &format!("alice:{number}"));
        if response.status != 401 {
            assert_throttled(&response, 2);
            refused = Some(number);
            break;
        }
    }
    assert!(refused.expect("a guess is throttled") >= 2);
    eventually("the network may try again", || {
        log_in(&proxy, "alice:pw").status == 200
    });
}

#[test]
fn zero_guesses_means_no_limit_and_a_reload_changes_the_limit() {
    let registry = Registry::accepting_all();
    let proxy = start(&registry, "guesses = 0");
    guess(&proxy, HttpVersion::Http1, 30);
    let set = |throttle: &str| {
        proxy.configure(&registry, config(&throttle_table(throttle), ""));
        proxy.reload().unwrap();
    };
    set("guesses = 3");
    guess(&proxy, HttpVersion::Http1, 3);
    assert_throttled(&log_in(&proxy, "alice:more"), 301);
    set("guesses = 4");
    log_in(&proxy, "alice:more").assert_rejection(401, "UNAUTHORIZED");
    assert_throttled(&log_in(&proxy, "alice:pw"), 301);
    set("guesses = 0");
    assert_eq!(log_in(&proxy, "alice:pw").status, 200);
}

#[test]
fn guesses_at_the_token_endpoint_count_and_tokens_are_not_throttled() {
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
        let body: serde_json::Value = serde_json::from_slice(&granted.body).unwrap();
        let token = body["token"].as_str().unwrap();
        for number in 0..5 {
            let wrong = exchange(&proxy, http, &get(&format!("alice:get{number}")));
            wrong.assert_rejection(401, "UNAUTHORIZED");
            let wrong = exchange(&proxy, http, &form(&format!("form{number}")));
            wrong.assert_rejection(401, "UNAUTHORIZED");
        }
        assert_throttled(&exchange(&proxy, http, &get("alice:more")), 301);
        assert_throttled(&exchange(&proxy, http, &form("more")), 301);
        assert_throttled(&exchange(&proxy, http, &login("alice:more")), 301);
        let with_token =
            TestRequest::new("GET", "/v2/").header("authorization", format!("Bearer {token}"));
        assert_eq!(exchange(&proxy, http, &with_token).status, 200);
        assert_eq!(exchange(&proxy, http, &form("pw")).status, 200);
    }
}

#[test]
fn a_throttled_network_does_not_learn_which_password_is_right() {
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
            let comparable = |response: TestResponse| {
                assert_throttled(&response, 301);
                let (status, mut fields, body) = response.without_request_id();
                fields.retain(|(name, _)| name != "retry-after");
                (status, fields, body)
            };
            let mut times = Vec::new();
            let responses = ["alice:pw", "alice:eleven", "nobody:pw"].map(|credentials| {
                let began = Instant::now();
                let response = exchange(&proxy, http, &request(credentials));
                times.push(began.elapsed());
                comparable(response)
            });
            assert!(
                responses.iter().all(|response| *response == responses[0]),
                "{responses:?}"
            );
            let least = Duration::from_secs(1);
            assert!(times.iter().all(|time| *time >= least), "{times:?}");
            // The network that logged in before is still served, and a third network can log in.
            assert_eq!(elsewhere.exchange(&request("alice:pw")).status, 200);
            let mut third = Client::connect_from(VICTIM, &proxy);
            assert_eq!(third.exchange(&request("alice:pw")).status, 200);
        }
    }
}

#[test]
fn many_users_log_in_concurrently_from_one_network_and_from_many() {
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
                    let response = client.exchange(&login(&format!("u{number}:pw")));
                    assert_eq!(response.status, 200, "u{number}: {}", response.text());
                });
            }
        });
    }
}

#[test]
fn many_users_log_in_concurrently_over_one_connection() {
    let registry = Registry::accepting_all();
    let dir = directory();
    let line = |number| format!("u{number}:{}\n", bcrypt::hash("pw", 6).unwrap());
    let lines: String = (0..50).map(line).collect();
    fs::write(dir.path().join("htpasswd"), lines).unwrap();
    let proxy = Proxy::start_in(dir, &registry.url(), config("", ""));
    block_on(async {
        let mut client = H2Client::connect(&proxy).await;
        let mut responses = Vec::new();
        for number in 0..50 {
            let request = login(&format!("u{number}:pw"));
            responses.push(client.start_request(&request).await.unwrap().0);
        }
        for (number, response) in responses.into_iter().enumerate() {
            let response = collect(response.await.unwrap()).await;
            assert_eq!(response.status, 200, "u{number}: {}", response.text());
        }
    });
}

#[test]
fn a_flood_of_logins_does_not_block_another_network() {
    let registry = Registry::accepting_all();
    let dir = directory();
    let line = format!("alice:{}\n", bcrypt::hash("pw", 8).unwrap());
    fs::write(dir.path().join("htpasswd"), line).unwrap();
    let limits = "[limits]\nhash_threads = 1\nhash_queue = 16\nh2_streams = 400\n";
    let top = throttle_table("guesses = 0") + limits;
    let proxy = Proxy::start_in(dir, &registry.url(), config(&top, ""));
    let mut victim = Client::connect_from(VICTIM, &proxy);
    block_on(async {
        let mut flooder = H2Client::connect_from(FLOODER, &proxy).await;
        let mut responses = Vec::new();
        // With the first response the client has the SETTINGS of the proxy, which have the limit of concurrent streams.
        flooder.exchange(&TestRequest::new("GET", "/v2/")).await;
        for number in 0..300 {
            let wrong = login(&format!("nobody{number}:no"));
            responses.push(flooder.start_request(&wrong).await.unwrap().0);
        }
        // The proxy responds to this request after it has read the flood, which came before on the same connection.
        let anonymous = flooder.exchange(&TestRequest::new("GET", "/v2/")).await;
        anonymous.assert_rejection(401, "UNAUTHORIZED");
        assert_eq!(victim.exchange(&login("alice:pw")).status, 200);
        let mut busy = 0;
        for response in responses {
            let response = collect(response.await.unwrap()).await;
            if response.status == 503 {
                response.assert_rejection(503, "UNAVAILABLE");
                assert!(response.header("retry-after").parse::<u32>().is_ok());
                busy += 1;
            } else {
                response.assert_rejection(401, "UNAUTHORIZED");
            }
        }
        assert!(
            busy > 0,
            "none of 300 password checks was rejected by a queue of 16"
        );
    });
}

#[test]
fn a_401_does_not_reveal_whether_the_user_exists() {
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
fn a_value_out_of_range_is_an_error_that_names_its_key() {
    let registry = Registry::accepting_all();
    for (keys, key) in [
        ("guesses = 1001", "throttle.guesses"),
        ("window = \"0s\"", "throttle.window"),
    ] {
        let text = config(&throttle_table(keys), "");
        let refused = Proxy::try_start(directory(), &registry.url(), &text);
        let problems = refused
            .err()
            .expect("the configuration is rejected")
            .to_string();
        assert!(problems.contains(key), "{key} in {problems}");
    }
}
