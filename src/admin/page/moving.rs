//! Who pushes or pulls what at this moment.
//!
//! Called by `page`.

use super::figures;
use super::html::Html;
use super::status::{Status, TransferRow};

pub(super) fn write(html: &mut Html, status: &Status) {
    let moving = &status.moving;
    html.tags("<section id=\"moving\" aria-labelledby=\"moving-title\" data-live>\n<h2 id=\"moving-title\">Moving now <span class=\"count\">");
    html.text(figures::count(moving.count as u64))
        .tags("</span></h2>\n");
    if moving.shown.is_empty() {
        html.tags("<p class=\"empty\">Nothing moves right now. A push or a pull is shown here as long as it runs.</p>\n</section>\n");
        return;
    }
    html.tags("<div class=\"frame\" role=\"group\" aria-labelledby=\"moving-title\" tabindex=\"0\"><table class=\"moving\"><caption class=\"unseen\">Pushes and pulls under way, the oldest first</caption>\n<thead><tr>");
    html.tags("<th scope=\"col\">Repository</th><th scope=\"col\">Direction</th><th scope=\"col\">User</th><th scope=\"col\">From</th>");
    html.tags("<th scope=\"col\">Site</th><th scope=\"col\" class=\"number\">Moved</th><th scope=\"col\" class=\"number\">Rate</th><th scope=\"col\" class=\"number\">For</th>");
    html.tags("</tr></thead>\n<tbody>\n");
    for one in &moving.shown {
        row(html, one);
    }
    html.tags("</tbody></table></div>\n");
    if moving.count > moving.shown.len() {
        html.tags("<p class=\"more\">And ");
        let more = moving.count - moving.shown.len();
        html.text(figures::count(more as u64));
        html.tags(" more, of which each has moved less.</p>\n");
    }
    html.tags("</section>\n");
}

fn row(html: &mut Html, one: &TransferRow) {
    html.tags("<tr data-key=\"")
        .text(one.number)
        .tags("\"><th scope=\"row\">");
    html.name(&one.repository).tags("</th><td>");
    html.tags(match one.is_push {
        true => "<span class=\"push\"><span aria-hidden=\"true\">↑</span> push</span>",
        false => "<span class=\"pull\"><span aria-hidden=\"true\">↓</span> pull</span>",
    });
    html.tags("</td><td data-label=\"by\">");
    user(html, &one.user, "nobody");
    html.tags("</td><td data-label=\"from\">").name(&one.client);
    html.tags("</td><td data-label=\"to\">").name(&one.site);
    html.tags("</td><td class=\"number\">")
        .text(figures::bytes(one.bytes));
    html.tags("</td><td class=\"number\">")
        .text(figures::rate(one.rate));
    html.tags("</td><td class=\"number\">")
        .text(figures::duration(one.age));
    html.tags("</td></tr>\n");
}

/// A user may be called what stands for none; that one is not in these letters.
pub(super) fn user(html: &mut Html, user: &str, none: &'static str) {
    if user.is_empty() {
        html.tags("<i class=\"nobody\">").tags(none).tags("</i>");
    } else {
        html.name(user);
    }
}
