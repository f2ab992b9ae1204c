//! Who is at the other end of the unix socket.

use std::fs;

use tokio::net::UnixStream;

const PASSWD: &str = "/etc/passwd";
/// A larger one is not searched; the user is then named by number.
const MAX_PASSWD_BYTES: u64 = 4 * 1024 * 1024;

/// The user of the process that connected, as the kernel tells it. Its number
/// stands in for a name that cannot be found.
pub fn user_of(stream: &UnixStream) -> String {
    match stream.peer_cred() {
        Ok(credentials) => user_name(credentials.uid()),
        Err(_) => "an unknown user".to_owned(),
    }
}

/// The name of a user of this machine.
pub fn user_name(uid: u32) -> String {
    let small = fs::metadata(PASSWD).is_ok_and(|meta| meta.len() <= MAX_PASSWD_BYTES);
    let text = if small { fs::read_to_string(PASSWD).unwrap_or_default() } else { String::new() };
    name_in_passwd(&text, uid).map_or_else(|| format!("uid {uid}"), str::to_owned)
}

/// The name of a uid in the text of a `passwd(5)` file.
pub fn name_in_passwd(text: &str, uid: u32) -> Option<&str> {
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let found: u32 = fields.nth(1)?.parse().ok()?;
        (found == uid && !name.is_empty()).then_some(name)
    })
}

/// Who asked: the user that the socket proves, and beside it whom the client
/// says it acts for, for example a person who became root.
pub fn requester(proved: &str, claimed: &str) -> String {
    let claimed: String = claimed.chars().filter(|c| !c.is_control()).take(64).collect();
    if claimed.is_empty() || claimed == proved {
        proved.to_owned()
    } else {
        format!("{proved} (for {claimed})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uid_is_found_by_its_field() {
        let text =
            "root:x:0:0:root:/root:/bin/sh\n# a comment\nbroken\nada:x:1000:1000::/:/bin/sh\n";
        assert_eq!(name_in_passwd(text, 0), Some("root"));
        assert_eq!(name_in_passwd(text, 1000), Some("ada"));
        assert_eq!(name_in_passwd(text, 7), None);
    }

    #[test]
    fn what_the_socket_proves_comes_before_what_the_client_claims() {
        assert_eq!(requester("root", "root"), "root");
        assert_eq!(requester("root", ""), "root");
        assert_eq!(requester("root", "ada\n"), "root (for ada)");
    }
}
