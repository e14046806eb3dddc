//! The rendered page is well-formed for any content, bounded in size, and rendered quickly.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::*;
use crate::activity::{ActivityTracker, RejectedRequest, Transfer, TransferGuard};
use crate::admin::routes::tests::server_state;
use crate::metrics::{Operation, RejectionReason};
use crate::net::addr::{ClientAddr, ClientNetwork};
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

fn network() -> ClientNetwork {
    ClientAddr::new([192, 0, 2, 1].into()).network()
}

fn rejected(text: &str) -> RejectedRequest {
    RejectedRequest {
        at: SystemTime::now(),
        first_at: SystemTime::now(),
        count: 1,
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
        "Nothing was rejected",
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
        let transfer = activity.start_transfer(network(), transfer(Operation::Push, "a", 0));
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
        activity
            .start_transfer(network(), pull)
            .into_iter()
            .collect()
    });
    for text in ["team/app", "alice", "192.0.2.7", "↓", ">3\u{a0}MiB<"] {
        assert!(page.contains(text), "{text} in {page}");
    }
}

/// The page with a transfer of this length that moved so many bytes in a thousand seconds.
fn page_with_transfer(length: u64, bytes: u64) -> String {
    let page = page(LifecyclePhase::Serving, |activity| {
        let Some(started) = Instant::now().checked_sub(Duration::from_secs(1000)) else {
            return Vec::new();
        };
        let transfer = Transfer::new(Operation::Pull, ["a"; 4], started);
        transfer.set_length(length);
        transfer.add_sent(bytes);
        let transfer = activity.start_transfer(network(), transfer);
        transfer.into_iter().collect()
    });
    page.replace('\u{a0}', " ")
}

#[test]
fn a_transfer_of_known_length_has_a_percentage_and_the_time_left() {
    let mib = 1 << 20;
    for (length, bytes, moved) in [
        (
            1434 * mib,
            350 * mib,
            "350 MiB of 1.4 GiB, 24 %, 51 min left",
        ),
        (
            1434 * mib,
            1275 * mib,
            "1.25 GiB of 1.4 GiB, 88 %, 2 min left",
        ),
        (999 * mib, 998 * mib, "998 MiB of 999 MiB, 99 %, 2 s left"),
        (999 * mib, 999 * mib, "999 MiB of 999 MiB, 100 %"),
        (999 * mib, 0, "0 B of 999 MiB, 0 %"),
    ] {
        let page = page_with_transfer(length, bytes);
        assert!(page.contains(&format!(">{moved}<")), "{moved} in {page}");
        assert_eq!(page.contains(">waiting<"), bytes == 0);
    }
}

#[test]
fn a_site_without_an_endpoint_says_which_why_and_since_when() {
    let state = server_state("", LifecyclePhase::Serving);
    for route in state.snapshot().service.sites.routes() {
        route
            .forward
            .upstream()
            .assume_it_is_down("connection <refused>");
    }
    let page = render(&state);
    assert_well_formed(&page);
    let (_, row) = page
        .split_once("<tr class=\"down\" data-key=\"")
        .expect("a red site");
    let (row, _) = row.split_once("</th>").expect("the end of its name");
    let row = row.replace("<bdi>", "").replace("</bdi>", "");
    for text in [
        "cannot serve /v2/: http://127.0.0.1:1 is down since <time datetime=\"",
        " UTC</time>: connection &lt;refused&gt;</span>",
    ] {
        assert!(row.contains(text), "{text} in {row}");
    }
    // The same sentence is an error at the top, and the endpoint is not a warning in addition.
    assert_eq!(page.matches("<b>Error:</b>").count(), 1);
    assert!(!page.contains("<b>Warning:</b> http"));
    // Every time of the page has the same format.
    let without_attributes: String = page
        .split("datetime=\"")
        .map(|part| part.split_once('>').map_or(part, |(_, text)| text))
        .collect();
    assert!(format::find_iso_time(&without_attributes).is_none());
}

#[test]
fn repeated_rejections_are_one_row_and_upstream_errors_are_red() {
    let page = page(LifecyclePhase::Serving, |activity| {
        for (reason, count) in [
            (RejectionReason::Throttled, 5),
            (RejectionReason::UpstreamTimeout, 1),
        ] {
            for _ in 0..count {
                activity.record_rejection(network(), || RejectedRequest {
                    reason,
                    ..rejected("a")
                });
            }
        }
        Vec::new()
    });
    assert!(
        page.contains("<code>throttled</code> <b>×5</b> <small>since <time"),
        "{page}"
    );
    assert_eq!(page.matches("<code>throttled</code>").count(), 1);
    assert!(
        page.contains("<code class=\"bad\">upstream_timeout</code> <span"),
        "{page}"
    );
}

#[test]
fn the_chart_with_two_lines_has_a_legend() {
    let page = page(LifecyclePhase::Serving, |_| Vec::new());
    for (class, name) in [("warn", "rejected"), ("bad", "errors")] {
        let entry = format!("<span class=\"key {class}\"></span>0/s<small> {name}</small>");
        assert!(page.contains(&entry), "{entry} in {page}");
    }
    assert_eq!(page.matches("class=\"key ").count(), 2);
}

#[test]
fn markup_in_names_is_escaped() {
    let page = page(LifecyclePhase::Serving, |activity| {
        activity.record_rejection(network(), || rejected(HOSTILE));
        let shown = [Operation::Push, Operation::Pull]
            .map(|operation| activity.start_transfer(network(), transfer(operation, HOSTILE, 1)));
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
        let shown = (0..1000).map(|bytes| {
            activity.start_transfer(network(), transfer(Operation::Pull, &name, bytes))
        });
        let shown = shown.flatten().collect();
        for number in 0..50 {
            let rejected = RejectedRequest {
                request: format!("{number}{HOSTILE}"),
                ..rejected(HOSTILE)
            };
            activity.record_rejection(network(), || rejected);
        }
        took = began.elapsed();
        shown
    });
    assert_eq!(page.matches("<tr data-key").count(), 20 + 2);
    assert!(page.contains(">980 more, of which each has moved less."));
    assert!(page.contains(">38 more; the access log has all of them."));
    assert!(page.contains("1\u{202f}000</span>"));
    assert!(page.contains(">999\u{a0}B<") && !page.contains(">979\u{a0}B<"));
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
