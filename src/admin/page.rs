//! The status page: what moves, what went on in the last minutes, and how everything is, for a person.
//!
//! Called by `answer`. All of it is written here, complete, for each request; the page's own script asks for it again and
//! puts what has changed in place, so that there is one truth, and it is there without a script as well.

use crate::state::ServerState;

mod figures;
mod html;
mod moving;
mod plots;
mod refusals;
mod sites;
mod status;
mod summary;
mod upstreams;

use html::Html;
use status::Status;

/// The page at this moment.
pub(super) fn write(gate: &ServerState) -> String {
    document(&Status::of(gate))
}

/// What the page loads: its media type and itself.
pub(super) fn part(path: &str) -> Option<(&'static str, &'static str)> {
    match path {
        "/status.css" => Some(("text/css; charset=utf-8", include_str!("page/status.css"))),
        "/status.js" => Some((
            "text/javascript; charset=utf-8",
            include_str!("page/status.js"),
        )),
        "/status.svg" => Some(("image/svg+xml", include_str!("page/status.svg"))),
        _ => None,
    }
}

fn document(status: &Status) -> String {
    let mut html = Html::default();
    html.tags(include_str!("page/head.html"));
    html.tags("<title>");
    summary::title(&mut html, status);
    html.tags("</title>\n</head>\n<body>\n");
    summary::header(&mut html, status);
    html.tags("<main id=\"content\" tabindex=\"-1\">\n");
    summary::warnings(&mut html, status);
    summary::facts(&mut html, status);
    moving::write(&mut html, status);
    plots::write(&mut html, status);
    upstreams::write(&mut html, status);
    sites::write(&mut html, status);
    refusals::write(&mut html, status);
    html.tags("</main>\n");
    summary::footer(&mut html, status);
    html.tags("</body>\n</html>\n");
    html.done()
}

#[cfg(test)]
mod tests;
