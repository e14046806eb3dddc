//! The page as it is written: that it is well formed whatever it shows, bounded, and quick.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::super::tests::admin;
use super::*;
use crate::activity::{ActivityTracker, RejectedRequest, Transfer, TransferGuard};
use crate::metrics::{Operation, RejectionReason};
use crate::net::addr::{ClientNetworkGroup, PeerAddr};
use crate::state::{LifecyclePhase, ServerState};

const HOSTILE: &str = "\"><script>alert('1')</script><img src=x onerror=alert(2)>&lt;\u{202e}\0{}";

fn page(
    phase: LifecyclePhase,
    fill: impl FnOnce(&Arc<ActivityTracker>) -> Vec<TransferGuard>,
) -> String {
    let gate: Arc<ServerState> = admin("", phase).gate;
    let _running = fill(&gate.snapshot().service.activity);
    let page = write(&gate);
    well_formed(&page);
    page
}

fn transfer(operation: Operation, text: &str, bytes: u64) -> Transfer {
    let transfer = Transfer::new(operation, [text; 4], Instant::now());
    transfer.add_sent(bytes);
    transfer
}

fn home() -> ClientNetworkGroup {
    let address = std::net::SocketAddr::from(([192, 0, 2, 1], 1));
    PeerAddr::new(address).client().network().group()
}

fn refused(text: &str) -> RejectedRequest {
    RejectedRequest {
        at: SystemTime::now(),
        client: text.to_owned(),
        user: text.to_owned(),
        site: text.to_owned(),
        request: text.to_owned(),
        reason: RejectionReason::WrongPassword,
        message: text.to_owned(),
    }
}

/// Every element that is opened is closed in its order, but for those that have no end; every id is there once; every
/// landmark has a name of its own (WAI-ARIA 1.2 section 5.3.4), so that a screen reader lists each part of the page once.
#[track_caller]
fn well_formed(page: &str) {
    let mut open: Vec<&str> = Vec::new();
    let mut ids = std::collections::BTreeSet::new();
    let body = page.strip_prefix("<!DOCTYPE html>\n").expect("a doctype");
    for part in body.split('<').skip(1) {
        let (tag, text) = part.split_once('>').expect("the end of a tag");
        assert!(!text.contains(['"', '\'']), "{text}");
        assert!(tag.matches('"').count().is_multiple_of(2), "{tag}");
        let name = tag.split([' ', '/']).find(|name| !name.is_empty());
        let name = name.expect("a name");
        if tag.starts_with('/') {
            assert_eq!(open.pop(), Some(name), "</{name}>");
        } else if !matches!(name, "meta" | "link" | "img") && !tag.ends_with('/') {
            open.push(name);
        }
        for attribute in tag.split(' ').skip(1) {
            let name = attribute.split('=').next().unwrap_or_default();
            assert!(!name.starts_with("on") && name != "style", "{tag}");
            if let Some(id) = attribute.strip_prefix("id=") {
                assert!(ids.insert(id), "{id} twice");
            }
        }
    }
    assert!(open.is_empty(), "{open:?}");
    has_named_landmarks(body);
}

/// A `section` is a landmark where it has a name. `role="region"` would make another one of a part of it.
#[track_caller]
fn has_named_landmarks(body: &str) {
    assert!(!body.contains("role=\"region\""));
    for landmark in ["main", "header", "footer"] {
        let opened = body.split('<').filter(|tag| {
            let name = tag.split([' ', '>']).next();
            name == Some(landmark)
        });
        assert_eq!(opened.count(), 1, "{landmark}");
    }
    let mut names = std::collections::BTreeSet::new();
    for section in body.split("<section ").skip(1) {
        let (tag, _) = section.split_once('>').expect("the end of a tag");
        let (_, name) = tag.split_once("aria-labelledby=\"").expect("a name");
        let (name, _) = name.split_once('"').expect("the end of a name");
        assert!(names.insert(name), "two landmarks are called {name}");
        let (_, title) = body
            .split_once(&format!(" id=\"{name}\">"))
            .expect("its title");
        let (title, _) = title.split_once("</h2>").expect("the end of its title");
        assert!(!title.trim().is_empty());
    }
    assert!(names.len() >= 4, "{names:?}");
}

#[test]
fn an_idle_gate_says_so() {
    let page = page(LifecyclePhase::Serving, |_| Vec::new());
    for words in [
        "Nothing moves right now.",
        "Nothing was refused",
        "<title>Ready – tidegate on ",
        "docker.example.com",
        "http://127.0.0.1:1",
        env!("CARGO_PKG_VERSION"),
    ] {
        assert!(page.contains(words), "{words} in {page}");
    }
}

#[test]
fn a_gate_that_drains_says_so_in_its_title() {
    let page = page(LifecyclePhase::Draining, |board| {
        let running = board.start_transfer(home(), transfer(Operation::Push, "a", 0));
        running.into_iter().collect()
    });
    assert!(page.contains("<title>Draining, 1 moving – tidegate"));
    assert!(page.contains("it drains, and accepts no more"));
}

#[test]
fn what_moves_is_told_with_what_it_is() {
    let page = page(LifecyclePhase::Serving, |board| {
        let texts = ["alice", "192.0.2.7", "docker.example.com", "team/app"];
        let pull = Transfer::new(Operation::Pull, texts, Instant::now());
        pull.add_sent(3 << 20);
        board.start_transfer(home(), pull).into_iter().collect()
    });
    for words in ["team/app", "alice", "192.0.2.7", "↓", "3\u{a0}MiB"] {
        assert!(page.contains(words), "{words} in {page}");
    }
}

#[test]
fn names_that_are_tags_stay_names() {
    let page = page(LifecyclePhase::Serving, |board| {
        board.record_rejection(home(), || refused(HOSTILE));
        let shown = [Operation::Push, Operation::Pull]
            .map(|operation| board.start_transfer(home(), transfer(operation, HOSTILE, 1)));
        shown.into_iter().flatten().collect()
    });
    assert!(!page.contains("<img src=x") && page.matches("<script").count() == 1);
    let name = "&quot;&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&lt;img src=x onerror=alert(2)&gt;&amp;lt;��{}";
    assert_eq!(page.matches(name).count(), 2 * 4 + 5);
}

#[test]
fn of_many_transfers_the_largest_are_shown_and_all_are_counted() {
    let began = Instant::now();
    let mut took = Duration::ZERO;
    let page = page(LifecyclePhase::Serving, |board| {
        let name = "r".repeat(160);
        let shown = (0..1000)
            .map(|bytes| board.start_transfer(home(), transfer(Operation::Pull, &name, bytes)));
        let shown = shown.flatten().collect();
        (0..50).for_each(|_| board.record_rejection(home(), || refused(HOSTILE)));
        took = began.elapsed();
        shown
    });
    assert_eq!(page.matches("<tr data-key").count(), 100 + 2 + 1 - 1);
    assert!(page.contains("And 900 more"));
    assert!(page.contains("1\u{202f}000</span>"));
    assert!(page.contains(">999\u{a0}B<") && !page.contains(">899\u{a0}B<"));
    assert!(page.len() < 300_000, "{}", page.len());
    // Without optimisation, beside other tests: a bound that only a mistake reaches.
    assert!(began.elapsed() - took < Duration::from_secs(2));
}

#[test]
fn every_part_that_is_named_is_there() {
    let page = page(LifecyclePhase::Serving, |_| Vec::new());
    for name in ["status.css", "status.js", "status.svg"] {
        assert!(page.contains(&format!("=\"{name}\"")));
        let (_, text) = part(&format!("/{name}")).unwrap();
        assert!(!text.is_empty() && !text.contains("://") || name == "status.svg");
    }
    assert!(part("/status.html").is_none());
}
