//! The status page: transfers in progress, the traffic of the last minutes, and the state of upstreams, sites and rejections,
//! for a person with a browser.
//!
//! The server renders the complete page for each request, so it works without a script as well. The script of the page
//! requests the page again every two seconds and replaces the parts that changed, so there is only one renderer.

use crate::state::ServerState;

mod charts;
pub(crate) mod format;
mod html;
pub(crate) mod json;
mod model;
mod view;

use model::Status;

/// The page at this moment, as HTML.
pub(crate) fn render(state: &ServerState) -> String {
    view::document(&Status::of(state))
}

/// The media type and the content of a file that the page loads.
pub(crate) fn asset(path: &str) -> Option<(&'static str, &'static str)> {
    match path {
        "/status.css" => Some((
            "text/css; charset=utf-8",
            include_str!("status_page/status.css"),
        )),
        "/status.js" => Some((
            "text/javascript; charset=utf-8",
            include_str!("status_page/status.js"),
        )),
        "/status.svg" => Some(("image/svg+xml", include_str!("status_page/status.svg"))),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
