//! `internal_origins` and `cors`: lists of origins, the ones an upstream's own, the others those of web pages.
//!
//! Called by `routes`.

use super::super::problem::Problem;
use super::super::table::Table;
use super::super::units::{self, ExternalUrl};
use crate::forward::Origin;
use crate::site::Cors;

/// Further names by which the upstream calls itself.
pub(super) fn internal(route: &Table<'_>) -> Vec<Origin> {
    let origins = read(route, "internal_origins");
    let origin = |url: ExternalUrl| Origin {
        scheme: url.scheme.to_string(),
        authority: url.authority(),
    };
    origins.into_iter().map(origin).collect()
}

/// Whose pages may use the route.
pub(super) fn cors(route: &Table<'_>) -> Cors {
    Cors::new(read(route, "cors").iter().map(ToString::to_string))
}

fn read(route: &Table<'_>, key: &'static str) -> Vec<ExternalUrl> {
    let Some(list) = route.parse_each(key, origin) else {
        return Vec::new();
    };
    if list.is_written_empty() {
        let what = format!("{} is empty", route.dotted(key));
        route.report(Problem::warning(list.place, what).fix("remove it"));
    }
    list.value.into_iter().map(|url| url.value).collect()
}

fn origin(text: &str) -> Result<ExternalUrl, units::Error> {
    if text.contains('*') {
        return Err(units::Error::Malformed {
            expected: "an origin",
            remedy: "name each origin, as in \"https://ui.example.com\"; a page of any other origin could act for the \
                     user who opens it"
                .to_owned(),
        });
    }
    units::external_url(text)
}
