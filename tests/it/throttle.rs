//! Guessing is slowed: what a guesser meets, and that nobody else notices him.

use std::fs;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::support::h2::{H2, block_on, collect};
use crate::support::proxy::TestConfig;
use crate::support::proxy::{ALICE, directory};
use crate::support::{Answer, Ask, Client, Http, Proxy, Registry, ask, config, eventually};

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

fn login(credentials: &str) -> Ask {
    Ask::new("GET", "/v2/").login(credentials.as_bytes())
}

fn one(proxy: &Proxy, credentials: &str) -> Answer {
    ask(proxy, Http::One, &login(credentials))
}

/// Guesses at alice, each another one, all of them taken for what they are.
#[track_caller]
fn guess(proxy: &Proxy, http: Http, count: usize) {
    for number in 0..count {
        let wrong = login(&format!("alice:{http:?}{number}"));
        ask(proxy, http, &wrong).is_refusal(401, "UNAUTHORIZED");
    }
}

#[track_caller]
fn is_too_many(answer: &Answer, most: u32) {
    answer.is_refusal(429, "TOOMANYREQUESTS");
    let after: u32 = answer.one("retry-after").parse().unwrap();
    assert!((1..=most).contains(&after), "{after}");
}

/// A route in mode token, its endpoint at `/v2/_token`.
fn token_config() -> TestConfig {
    config("[state]\ndir = \"{dir}/state\"\n", "").mode("token")
}

#[test]
fn the_eleventh_different_guess_is_too_many() {
    for http in Http::BOTH {
        let registry = Registry::obliging();
        let proxy = Proxy::usual(&registry);
        guess(&proxy, http, 10);
        for credentials in ["alice:eleven", "nobody:eleven", "alice:pw"] {
            is_too_many(&ask(&proxy, http, &login(credentials)), 301);
        }
        // Who has no credentials is asked for them as ever.
        let bare = ask(&proxy, http, &Ask::new("GET", "/v2/"));
        bare.is_refusal(401, "UNAUTHORIZED");
        assert!(registry.requests().is_empty());
    }
}

#[test]
fn the_same_wrong_password_is_one_guess() {
    let registry = Registry::obliging();
    let proxy = Proxy::usual(&registry);
    for http in Http::BOTH {
        for _ in 0..15 {
            ask(&proxy, http, &login("alice:same")).is_refusal(401, "UNAUTHORIZED");
        }
    }
    block_on(async {
        let mut client = H2::connect(&proxy).await;
        let mut answers = Vec::new();
        for _ in 0..5 {
            answers.push(client.begin(&login("alice:other")).await.unwrap().0);
        }
        for answer in answers {
            let answer = collect(answer.await.unwrap()).await;
            answer.is_refusal(401, "UNAUTHORIZED");
        }
    });
    // Two so far.
    guess(&proxy, Http::One, 8);
    is_too_many(&one(&proxy, "alice:eleven"), 301);
    one(&proxy, "alice:same").is_refusal(401, "UNAUTHORIZED");
}

#[test]
fn who_is_remembered_goes_on_also_after_reloads() {
    let registry = Registry::obliging();
    let proxy = with(&registry, "guesses = 3");
    assert_eq!(one(&proxy, "alice:pw").status, 200);
    guess(&proxy, Http::One, 3);
    let throttle = throttled("guesses = 3");
    let threads = format!("{throttle}[limits]\nhash_threads = 3\n");
    for top in [throttle, threads] {
        assert_eq!(one(&proxy, "alice:pw").status, 200);
        is_too_many(&one(&proxy, "alice:four"), 301);
        proxy.configure(&registry, config(&top, ""));
        proxy.reload().unwrap();
    }
    assert_eq!(one(&proxy, "alice:pw").status, 200);
    is_too_many(&one(&proxy, "alice:four"), 301);
}

#[test]
fn another_address_is_not_concerned() {
    let registry = Registry::obliging();
    let proxy = with(&registry, "guesses = 3");
    guess(&proxy, Http::One, 3);
    is_too_many(&one(&proxy, "alice:pw"), 301);
    let mut elsewhere = Client::connect_from(ELSEWHERE, &proxy);
    let wrong = elsewhere.ask(&login("alice:four"));
    wrong.is_refusal(401, "UNAUTHORIZED");
    assert_eq!(elsewhere.ask(&login("alice:pw")).status, 200);
}

#[test]
fn a_right_login_forgives_the_guesses_at_its_own_user() {
    let registry = Registry::obliging();
    let proxy = with(&registry, "guesses = 4");
    one(&proxy, "bob:0").is_refusal(401, "UNAUTHORIZED");
    guess(&proxy, Http::One, 2);
    assert_eq!(one(&proxy, "alice:pw").status, 200);
    // The one at bob still counts: three more, not four.
    guess(&proxy, Http::One, 3);
    is_too_many(&one(&proxy, "alice:four"), 301);
}

#[test]
fn a_guess_ceases_to_count() {
    let registry = Registry::obliging();
    let proxy = with(&registry, "guesses = 2\nwindow = \"1s\"");
    // On a slow machine more than two may fit.
    let mut refused = None;
    for number in 0..50 {
        let answer = one(&proxy, &format!("alice:{number}"));
        if answer.status != 401 {
            is_too_many(&answer, 2);
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
    let registry = Registry::obliging();
    let proxy = with(&registry, "guesses = 0");
    guess(&proxy, Http::One, 30);
    let set = |throttle: &str| {
        proxy.configure(&registry, config(&throttled(throttle), ""));
        proxy.reload().unwrap();
    };
    set("guesses = 3");
    guess(&proxy, Http::One, 3);
    is_too_many(&one(&proxy, "alice:more"), 301);
    set("guesses = 4");
    one(&proxy, "alice:more").is_refusal(401, "UNAUTHORIZED");
    is_too_many(&one(&proxy, "alice:pw"), 301);
    set("guesses = 0");
    assert_eq!(one(&proxy, "alice:pw").status, 200);
}

#[test]
fn the_token_endpoint_counts_and_tokens_pass() {
    let registry = Registry::obliging();
    let form = |password: &str| {
        let body =
            format!("grant_type=password&username=alice&password={password}&service=localhost");
        Ask::new("POST", "/v2/_token")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body)
    };
    let get = |credentials: &str| Ask::new("GET", "/v2/_token").login(credentials.as_bytes());
    for http in Http::BOTH {
        let proxy = Proxy::start(&registry, token_config());
        let granted = ask(&proxy, http, &get("alice:pw"));
        assert_eq!(granted.status, 200, "{granted:?}");
        let said: serde_json::Value = serde_json::from_slice(&granted.body).unwrap();
        let token = said["token"].as_str().unwrap();
        for number in 0..5 {
            let wrong = ask(&proxy, http, &get(&format!("alice:get{number}")));
            wrong.is_refusal(401, "UNAUTHORIZED");
            let wrong = ask(&proxy, http, &form(&format!("form{number}")));
            wrong.is_refusal(401, "UNAUTHORIZED");
        }
        is_too_many(&ask(&proxy, http, &get("alice:more")), 301);
        is_too_many(&ask(&proxy, http, &form("more")), 301);
        is_too_many(&ask(&proxy, http, &login("alice:more")), 301);
        let shown = Ask::new("GET", "/v2/").header("authorization", format!("Bearer {token}"));
        assert_eq!(ask(&proxy, http, &shown).status, 200);
        assert_eq!(ask(&proxy, http, &form("pw")).status, 200);
    }
}

#[test]
fn a_network_without_guesses_is_not_told_which_password_of_another_network_is_right() {
    let registry = Registry::obliging();
    let get = |credentials: &str| Ask::new("GET", "/v2/_token").login(credentials.as_bytes());
    for http in Http::BOTH {
        for (text, request) in [
            (config("", ""), login as fn(&str) -> Ask),
            (token_config(), get),
        ] {
            let proxy = Proxy::start(&registry, &text);
            let mut elsewhere = Client::connect_from(ELSEWHERE, &proxy);
            assert_eq!(elsewhere.ask(&request("alice:pw")).status, 200);
            guess(&proxy, http, 10);
            let alike = |answer: Answer| {
                is_too_many(&answer, 301);
                let (status, mut fields, body) = answer.without_id();
                fields.retain(|(name, _)| name != "retry-after");
                (status, fields, body)
            };
            let mut took = Vec::new();
            let answers = ["alice:pw", "alice:eleven", "nobody:pw"].map(|credentials| {
                let began = Instant::now();
                let answer = ask(&proxy, http, &request(credentials));
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
            assert_eq!(elsewhere.ask(&request("alice:pw")).status, 200);
            let mut third = Client::connect_from(VICTIM, &proxy);
            assert_eq!(third.ask(&request("alice:pw")).status, 200);
        }
    }
}

#[test]
fn everyone_logs_in_at_once_from_one_network_and_from_many() {
    let registry = Registry::obliging();
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
                    let answer = client.ask(&login(&format!("u{number}:pw")));
                    assert_eq!(answer.status, 200, "u{number}: {}", answer.text());
                });
            }
        });
    }
}

#[test]
fn an_office_logs_in_at_once() {
    let registry = Registry::obliging();
    let dir = directory();
    let line = |number| format!("u{number}:{}\n", bcrypt::hash("pw", 6).unwrap());
    let lines: String = (0..50).map(line).collect();
    fs::write(dir.path().join("htpasswd"), lines).unwrap();
    let proxy = Proxy::start_in(dir, &registry.url(), config("", ""));
    block_on(async {
        let mut client = H2::connect(&proxy).await;
        let mut answers = Vec::new();
        for number in 0..50 {
            let own = login(&format!("u{number}:pw"));
            answers.push(client.begin(&own).await.unwrap().0);
        }
        for (number, answer) in answers.into_iter().enumerate() {
            let answer = collect(answer.await.unwrap()).await;
            assert_eq!(answer.status, 200, "u{number}: {}", answer.text());
        }
    });
}

#[test]
fn a_flood_keeps_nobody_else_out() {
    let registry = Registry::obliging();
    let dir = directory();
    let line = format!("alice:{}\n", bcrypt::hash("pw", 8).unwrap());
    fs::write(dir.path().join("htpasswd"), line).unwrap();
    let limits = "[limits]\nhash_threads = 1\nhash_queue = 16\nh2_streams = 400\n";
    let top = throttled("guesses = 0") + limits;
    let proxy = Proxy::start_in(dir, &registry.url(), config(&top, ""));
    let mut victim = Client::connect_from(VICTIM, &proxy);
    block_on(async {
        let mut flooder = H2::connect_from(FLOODER, &proxy).await;
        let mut answers = Vec::new();
        // One answer first, since it brings the number of streams that are allowed.
        flooder.ask(&Ask::new("GET", "/v2/")).await;
        for number in 0..300 {
            let wrong = login(&format!("nobody{number}:no"));
            answers.push(flooder.begin(&wrong).await.unwrap().0);
        }
        // Answered behind the flood on the same connection: it has all come.
        let bare = flooder.ask(&Ask::new("GET", "/v2/")).await;
        bare.is_refusal(401, "UNAUTHORIZED");
        assert_eq!(victim.ask(&login("alice:pw")).status, 200);
        let mut busy = 0;
        for answer in answers {
            let answer = collect(answer.await.unwrap()).await;
            if answer.status == 503 {
                answer.is_refusal(503, "UNAVAILABLE");
                assert!(answer.one("retry-after").parse::<u32>().is_ok());
                busy += 1;
            } else {
                answer.is_refusal(401, "UNAUTHORIZED");
            }
        }
        assert!(busy > 0, "three hundred checks fitted a queue of sixteen");
    });
}

#[test]
fn a_401_does_not_tell_who_is_known() {
    let registry = Registry::obliging();
    let proxy = Proxy::usual(&registry);
    assert!(ALICE.starts_with("alice:"));
    for http in Http::BOTH {
        let known = ask(&proxy, http, &login("alice:wrong"));
        let unknown = ask(&proxy, http, &login("nobody:wrong"));
        known.is_refusal(401, "UNAUTHORIZED");
        assert_eq!(known.without_id(), unknown.without_id());
    }
}

#[test]
fn what_is_out_of_bounds_is_named() {
    let registry = Registry::obliging();
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
