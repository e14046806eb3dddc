//! `allow`, `deny` and `satisfy`: the client networks of a route.
//!
//! Called by `routes`.

use super::super::problem::Problem;
use super::super::table::{Spanned, Table};
use super::super::units;
use super::super::{Auth, RouteGrants};
use crate::net::cidr::Cidr;
use crate::net::cidr::Networks;
use crate::net::network_policy::NetworkPolicy;

/// Reads them, and holds them against who is asked for what.
pub(super) fn admission(
    route: &Table<'_>,
    auth: Option<&Auth>,
    granted: Option<&RouteGrants>,
) -> NetworkPolicy {
    let allow = list(route, "allow");
    let deny = list(route, "deny");
    let words = [("all", false), ("any", true)];
    let satisfy = route.parse("satisfy", |text| units::word(text, &words));
    let suffices_alone = satisfy.is_some_and(|satisfy| satisfy.value);
    if let Some(satisfy) = satisfy.filter(|satisfy| satisfy.value) {
        check_any(route, &satisfy, auth, granted);
        if allow.cover_most_addresses() && !deny.cover_most_addresses() {
            let what = "satisfy = \"any\" where allow holds nearly every address";
            route.report(
                Problem::warning(satisfy.place, what)
                    .because("a client from an allowed network needs no password, so nearly every client needs none")
                    .fix("name in allow only the networks that need no password, or remove satisfy"),
            );
        }
    } else if granted.is_some_and(|granted| granted.grants.mentions_network()) {
        route.report(
            Problem::error(
                route.place_of("grant"),
                "a grant to \"@network\" without satisfy = \"any\"",
            )
            .because("it is whoever comes from a network that needs no password, and there is none")
            .fix("add satisfy = \"any\" and allow = [\"10.0.0.0/8\"] to the route, or remove it"),
        );
    }
    NetworkPolicy {
        allow,
        deny,
        suffices_alone,
    }
}

/// What stands in for a password must be named, and there must be a password that it stands in for.
fn check_any(
    route: &Table<'_>,
    satisfy: &Spanned<bool>,
    auth: Option<&Auth>,
    granted: Option<&RouteGrants>,
) {
    let report = |what: &str, why: &str, fix: &str| {
        route.report(Problem::error(satisfy.place, what).because(why).fix(fix));
    };
    if route.place_of("allow").is_none() {
        report(
            "satisfy = \"any\" without allow",
            "every network would be enough, and nobody asked for a password",
            "add allow = [\"10.0.0.0/8\"], the networks that need no password",
        );
    }
    match auth {
        Some(Auth::LeftToUpstream | Auth::Open) => report(
            "satisfy = \"any\" where the gate asks for no password",
            "there is nothing that a network could stand in for",
            "remove it, or write mode = \"basic\"",
        ),
        Some(Auth::Basic { .. }) if granted.is_some() => report(
            "satisfy = \"any\" with grants and mode = \"basic\"",
            "docker decides by one request without a password, to /v2/, whether it ever sends one: either nobody \
             could pull from the network without a login, or nobody there could do more than the network may",
            "write mode = \"token\", or remove one of the two",
        ),
        Some(Auth::Basic { .. } | Auth::Token { .. }) | None => {}
    }
    if let (Some(Auth::Token { .. }), Some(granted)) = (auth, granted)
        && !granted.grants.mentions_network()
    {
        let what = "satisfy = \"any\" with grants, none of which is to \"@network\"";
        route.report(
            Problem::warning(satisfy.place, what)
                .because("the network would be enough for nothing")
                .fix("add \"@network\" to a grant"),
        );
    }
}

fn list(route: &Table<'_>, key: &'static str) -> Networks {
    let Some(list) = route.parse_each(key, networks) else {
        return Networks::default();
    };
    if list.is_written_empty() {
        let what = format!("{} is empty", route.dotted(key));
        route.report(
            Problem::error(list.place, what)
                .because("whether it means everyone or nobody would be a guess")
                .fix("name networks, or \"all\", or remove it"),
        );
    }
    list.value
        .into_iter()
        .flat_map(|networks| networks.value)
        .collect()
}

/// One network, or nginx's `all`.
fn networks(text: &str) -> Result<Vec<Cidr>, units::Error> {
    match text {
        "all" => ["0.0.0.0/0", "::/0"]
            .into_iter()
            .map(units::network)
            .collect(),
        _ if text.trim().eq_ignore_ascii_case("all") => Err(units::Error::Malformed {
            expected: "a network",
            remedy: "write \"all\", in lower case".to_owned(),
        }),
        _ => units::network(text).map(|network| vec![network]),
    }
}
