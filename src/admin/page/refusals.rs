//! What the gate answered itself lately, and why.
//!
//! Called by `page`.

use super::figures;
use super::html::Html;
use super::moving::user;
use super::status::Status;
use crate::activity::RejectedRequest;

pub(super) fn write(html: &mut Html, status: &Status) {
    html.tags("<section id=\"refusals\" aria-labelledby=\"refusals-title\" data-live>\n<h2 id=\"refusals-title\">Refused lately</h2>\n");
    if status.refusals.is_empty() {
        html.tags("<p class=\"empty\">Nothing was refused since the start. That a client is first asked for a password is how every login begins, and not shown.</p>\n</section>\n");
        return;
    }
    html.tags("<div class=\"frame\" role=\"group\" aria-labelledby=\"refusals-title\" tabindex=\"0\"><table class=\"refusals\"><caption class=\"unseen\">The last 50 requests that the gate refused, the latest first</caption>\n<thead><tr>");
    html.tags("<th scope=\"col\">When</th><th scope=\"col\">Reason</th><th scope=\"col\">Asked</th><th scope=\"col\">User</th>");
    html.tags("<th scope=\"col\">From</th><th scope=\"col\">Site</th></tr></thead>\n<tbody>\n");
    for refused in &status.refusals {
        row(html, refused, status);
    }
    html.tags("</tbody></table></div>\n</section>\n");
}

fn row(html: &mut Html, refused: &RejectedRequest, status: &Status) {
    let ago = status.now.duration_since(refused.at).unwrap_or_default();
    html.tags("<tr><td class=\"when\"><time datetime=\"");
    html.text(figures::format_iso(refused.at)).tags("\">");
    html.text(figures::duration(ago))
        .tags(" ago</time></td><td><code>");
    html.tags(refused.reason.as_str())
        .tags("</code> <span class=\"why\">");
    html.name(&refused.message)
        .tags("</span></td><td class=\"asked\"><code>");
    html.name(&refused.request)
        .tags("</code></td><td data-label=\"by\">");
    user(html, &refused.user, "unknown");
    html.tags("</td><td data-label=\"from\">")
        .name(&refused.client);
    html.tags("</td><td data-label=\"to\">");
    html.name(if refused.site.is_empty() {
        "–"
    } else {
        &refused.site
    });
    html.tags("</td></tr>\n");
}
