//! The pages as HTML.

use crate::accounts::Account;
use crate::people::Person;
use crate::photos::Photo;

const STYLE: &str = "body{font:16px/1.5 system-ui;max-width:52rem;margin:2rem auto;padding:0 1rem}
form{margin:1rem 0}input{font:inherit;margin:.2rem 0;display:block}button{font:inherit}
.photos{display:grid;grid-template-columns:repeat(auto-fill,minmax(14rem,1fr));gap:1rem}
figure{margin:0}img{width:100%;height:12rem;object-fit:cover;border-radius:.4rem;background:#eee}
nav form{display:inline}.error{color:#b00}figcaption,footer{color:#555;font-size:.9rem}
figure form{margin:0}table{border-collapse:collapse}td,th{text-align:left;padding:.2rem .8rem .2rem 0}";

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    let node = std::env::var("RUNG_NODE").unwrap_or_default();
    let where_ = if node.is_empty() { String::new() } else { format!(" on {}", escape(&node)) };
    let process = std::process::id();
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
         <style>{STYLE}</style>\n<h1><a href=\"/\">Photos</a></h1>\n{body}\n\
         <footer>answered by process {process}{where_}</footer></html>\n"
    )
}

fn problem(why: Option<&str>) -> String {
    why.map(|why| format!("<p class=\"error\">{}</p>", escape(why))).unwrap_or_default()
}

fn credentials(action: &str, heading: &str, complete: &str) -> String {
    format!(
        "<form method=\"post\" action=\"{action}\"><h2>{heading}</h2>\
         <label>Name <input name=\"name\" required maxlength=\"50\" autocomplete=\"username\"></label>\
         <label>Password <input name=\"password\" type=\"password\" required minlength=\"8\" \
         maxlength=\"200\" autocomplete=\"{complete}\"></label><button>{heading}</button></form>"
    )
}

/// For who is not logged in.
pub fn start(why: Option<&str>) -> String {
    let log_in = credentials("/login", "Log in", "current-password");
    let sign_up = credentials("/signup", "Sign up", "new-password");
    page(
        "Photos",
        &format!("{}{log_in}{sign_up}<p><a href=\"/people\">People</a></p>", problem(why)),
    )
}

/// One's own photos.
pub fn own_photos(account: &Account, photos: &[Photo], why: Option<&str>) -> String {
    let mut body = format!(
        "<nav>Hello {}. <a href=\"/people\">People</a> \
         <form method=\"post\" action=\"/logout\"><button>Log out</button></form></nav>{}\
         <form method=\"post\" action=\"/photos\" enctype=\"multipart/form-data\">\
         <input type=\"file\" name=\"photo\" accept=\"image/*\" required aria-label=\"Photo\">\
         <input name=\"caption\" placeholder=\"Caption\" maxlength=\"500\" aria-label=\"Caption\">\
         <button>Upload</button></form>\n<div class=\"photos\">",
        escape(&account.name),
        problem(why),
    );
    for photo in photos {
        let (id, caption) = (&photo.id, escape(&photo.caption));
        body.push_str(&format!(
            "<figure><img src=\"/photos/{id}\" alt=\"{caption}\" loading=\"lazy\">\
             <figcaption>{caption} <time>{}</time>\
             <form method=\"post\" action=\"/photos/{id}/delete\"><button>Delete</button></form>\
             </figcaption></figure>\n",
            escape(&photo.created)
        ));
    }
    body.push_str("</div>");
    if photos.is_empty() {
        body.push_str("<p>No photos yet.</p>");
    }
    page("Your photos", &body)
}

pub fn people(people: &[Person]) -> String {
    let mut body = String::from("<table><tr><th>Id<th>Name<th>Address<th>Phone numbers</tr>\n");
    for person in people {
        let address = &person.address;
        body.push_str(&format!(
            "<tr><td><a href=\"/people/{0}\">{0}</a><td>{1} {2}<td>{3}, {4}, {5} {6}<td>{7}</tr>\n",
            person.id,
            escape(&person.first_name),
            escape(&person.last_name),
            escape(&address.street_address),
            escape(&address.city),
            escape(&address.state),
            address.postal_code,
            escape(&person.phone_numbers.join(", ")),
        ));
    }
    body.push_str("</table>");
    page("People", &body)
}

pub fn message(title: &str, text: &str) -> String {
    page(title, &format!("<p>{}</p><p><a href=\"/\">Back</a></p>", escape(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_write_cannot_become_markup() {
        let account = Account { id: String::new(), name: "<script>".to_owned() };
        let photo = Photo {
            id: "1".to_owned(),
            caption: "\"><img src=x onerror=alert(1)>".to_owned(),
            created: String::new(),
        };
        let page = own_photos(&account, &[photo], Some("<b>"));
        assert!(
            !page.contains("<script>") && !page.contains("<img src=x") && !page.contains("<b>")
        );
    }
}
