//! The rendered page is well-formed for any content, bounded in size, and rendered quickly.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::*;
use crate::activity::{ActivityTracker, RejectedRequest, Transfer, TransferGuard};
use crate::admin::routes::tests::server_state;
use crate::metrics::{Operation, RejectionReason};
use crate::net::addr::{ClientNetworkGroup, PeerAddr};
use crate::state::LifecyclePhase;

const HOSTILE: &str = "\"><script>alert('1')</script><img src=x onerror=alert(2)>&lt;\u{202e}\0{}";

fn page(
    phase: LifecyclePhase,
    fill: impl FnOnce(&Arc<ActivityTracker>) -> Vec<TransferGuard>,
) -> String {
    let state = server_state("", phase);
    let _transfers = fill(&state.snapshot().service.activity);
    let page = render(&state);
    assert_well_formed(&page);
    page
}

fn transfer(operation: Operation, text: &str, bytes: u64) -> Transfer {
    let transfer = Transfer::new(operation, [text; 4], Instant::now());
    transfer.add_sent(bytes);
    transfer
}

fn group() -> ClientNetworkGroup {
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

/// Asserts that elements are closed in the order in which they were opened (except void elements), that ids are unique, and
/// that each landmark has a name of its own (WAI-ARIA 1.2 section 5.3.4), so that a screen reader lists each part of the
/// page once.
#[track_caller]
fn assert_well_formed(page: &str) {
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
    assert_landmarks_are_named(body);
}

/// A `section` with a name is a landmark. An element with `role="region"` inside of it would be a second one.
#[track_caller]
fn assert_landmarks_are_named(body: &str) {
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
        assert!(names.insert(name), "two landmarks have the name {name}");
        let (_, title) = body
            .split_once(&format!(" id=\"{name}\">"))
            .expect("its title");
        let (title, _) = title.split_once("</h2>").expect("the end of its title");
        assert!(!title.trim().is_empty());
    }
    assert!(names.len() >= 4, "{names:?}");
}

#[test]
fn an_idle_proxy_shows_empty_sections() {
    let page = page(LifecyclePhase::Serving, |_| Vec::new());
    for text in [
        "Nothing moves right now.",
        "Nothing was refused",
        "<title>Ready – tidegate on ",
        "docker.example.com",
        "http://127.0.0.1:1",
        env!("CARGO_PKG_VERSION"),
    ] {
        assert!(page.contains(text), "{text} in {page}");
    }
}

#[test]
fn the_title_has_the_state_and_the_number_of_transfers() {
    let page = page(LifecyclePhase::Draining, |activity| {
        let transfer = activity.start_transfer(group(), transfer(Operation::Push, "a", 0));
        transfer.into_iter().collect()
    });
    assert!(page.contains("<title>Draining, 1 moving – tidegate"));
    assert!(page.contains("the proxy drains and accepts no more connections"));
}

#[test]
fn a_transfer_is_shown_with_its_properties() {
    let page = page(LifecyclePhase::Serving, |activity| {
        let texts = ["alice", "192.0.2.7", "docker.example.com", "team/app"];
        let pull = Transfer::new(Operation::Pull, texts, Instant::now());
        pull.add_sent(3 << 20);
        activity.start_transfer(group(), pull).into_iter().collect()
    });
    for text in ["team/app", "alice", "192.0.2.7", "↓", "3\u{a0}MiB"] {
        assert!(page.contains(text), "{text} in {page}");
    }
}

#[test]
fn markup_in_names_is_escaped() {
    let page = page(LifecyclePhase::Serving, |activity| {
        activity.record_rejection(group(), || refused(HOSTILE));
        let shown = [Operation::Push, Operation::Pull]
            .map(|operation| activity.start_transfer(group(), transfer(operation, HOSTILE, 1)));
        shown.into_iter().flatten().collect()
    });
    assert!(!page.contains("<img src=x") && page.matches("<script").count() == 1);
    let name = "&quot;&gt;&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&lt;img src=x onerror=alert(2)&gt;&amp;lt;��{}";
    assert_eq!(page.matches(name).count(), 2 * 4 + 5);
}

#[test]
fn the_largest_transfers_are_shown_and_all_are_counted() {
    let began = Instant::now();
    let mut took = Duration::ZERO;
    let page = page(LifecyclePhase::Serving, |activity| {
        let name = "r".repeat(160);
        let shown = (0..1000)
            .map(|bytes| activity.start_transfer(group(), transfer(Operation::Pull, &name, bytes)));
        let shown = shown.flatten().collect();
        (0..50).for_each(|_| activity.record_rejection(group(), || refused(HOSTILE)));
        took = began.elapsed();
        shown
    });
    assert_eq!(page.matches("<tr data-key").count(), 100 + 2 + 1 - 1);
    assert!(page.contains("And 900 more"));
    assert!(page.contains("1\u{202f}000</span>"));
    assert!(page.contains(">999\u{a0}B<") && !page.contains(">899\u{a0}B<"));
    assert!(page.len() < 300_000, "{}", page.len());
    // The bound is wide, because the test runs without optimisation and in parallel with other tests.
    assert!(began.elapsed() - took < Duration::from_secs(2));
}

#[test]
fn every_asset_that_the_page_names_exists() {
    let page = page(LifecyclePhase::Serving, |_| Vec::new());
    for name in ["status.css", "status.js", "status.svg"] {
        assert!(page.contains(&format!("=\"{name}\"")));
        let (_, text) = asset(&format!("/{name}")).unwrap();
        assert!(!text.is_empty() && !text.contains("://") || name == "status.svg");
    }
    assert!(asset("/status.html").is_none());
}
