//! The sites: how long their certificates last, and what came to them.
//!
//! Called by `page`.

use super::figures;
use super::html::Html;
use super::status::{Site, Status};

pub(super) fn write(html: &mut Html, status: &Status) {
    let sites = &status.sites;
    html.tags("<section id=\"sites\" aria-labelledby=\"sites-title\" data-live>\n<h2 id=\"sites-title\">Sites <span class=\"count\">");
    html.text(figures::count(sites.count as u64))
        .tags("</span></h2>\n");
    html.tags("<div class=\"frame\" role=\"region\" aria-labelledby=\"sites-title\" tabindex=\"0\"><table class=\"sites\"><caption class=\"unseen\">Sites, the one whose certificate ends first on top; counts since the start</caption>\n<thead><tr>");
    html.tags("<th scope=\"col\">Site</th><th scope=\"col\">Certificate until</th><th scope=\"col\" class=\"number\">Left</th>");
    html.tags("<th scope=\"col\" class=\"number\">Requests</th><th scope=\"col\" class=\"number\">Refused</th><th scope=\"col\" class=\"number\">Errors</th></tr></thead>\n<tbody>\n");
    for site in &sites.shown {
        row(html, site);
    }
    html.tags("</tbody></table></div>\n");
    if sites.count > sites.shown.len() {
        let more = sites.count - sites.shown.len();
        html.tags("<p class=\"more\">And ")
            .text(figures::count(more as u64));
        html.tags(" more, whose certificates last longer.</p>\n");
    }
    html.tags("</section>\n");
}

fn row(html: &mut Html, site: &Site) {
    html.tags("<tr data-key=\"")
        .text(&site.name)
        .tags("\"><th scope=\"row\">");
    html.name(&site.name);
    if site.others > 0 {
        html.tags(" <small>and ")
            .text(site.others)
            .tags(match site.others {
                1 => " other name</small>",
                _ => " other names</small>",
            });
    }
    html.tags("</th><td data-label=\"until\"><time datetime=\"");
    html.text(figures::machine(site.until)).tags("\">");
    let until = figures::moment(site.until);
    html.text(until.split(' ').next().unwrap_or_default());
    html.tags("</time></td><td class=\"number\">");
    left(html, site);
    html.tags("</td><td class=\"number\" data-unit=\"requests\">")
        .text(figures::count(site.sums.requests));
    html.tags("</td><td class=\"number\" data-unit=\"refused\">")
        .text(figures::count(site.sums.refused));
    html.tags("</td><td class=\"number\" data-unit=\"errors\">");
    html.text(figures::count(site.sums.errors))
        .tags("</td></tr>\n");
}

fn left(html: &mut Html, site: &Site) {
    html.tags(match (site.days, site.is_aged) {
        (..0, _) => "<span class=\"pill bad\">expired</span>",
        (_, true) => "<span class=\"pill warn\">",
        (_, false) => "<span>",
    });
    if site.days >= 0 {
        let unit = if site.days == 1 {
            "\u{a0}day"
        } else {
            "\u{a0}days"
        };
        html.text(figures::count(site.days.unsigned_abs()))
            .tags(unit)
            .tags("</span>");
    }
}
