//! What every error code means and what to do about it.

use rung_proto::Code;

/// Every code with a paragraph, of which the first sentence alone tells the
/// meaning.
pub const EXPLAINED: &[(Code, &str)] = &[
    (
        Code::Usage,
        "The command or request was written wrongly. Nothing was changed. The reason names the \
         part that was not understood; `ctl <command> --help` shows what the command takes, with \
         examples.",
    ),
    (
        Code::NotFound,
        "What was named does not exist: an app, a node, an operation, a token. Nothing was \
         changed. Names are exact, and an operation is forgotten some time after it ended. List \
         what there is with `ctl app ls`, `ctl node ls`, `ctl op ls` or `ctl token ls`.",
    ),
    (
        Code::AlreadyExists,
        "Something of that name exists already, and it is not the same thing. Nothing was \
         changed. Choose another name, or remove the old one first.",
    ),
    (
        Code::InvalidManifest,
        "The app's rung.toml cannot be used. Nothing was changed. The reason names the line or \
         the field, and what it may be. A field that Rung does not know is an error too, so that \
         a misspelt one is never ignored.",
    ),
    (
        Code::InvalidBundle,
        "The app's folder or its packed bundle cannot be used. Nothing was changed. Bundles hold \
         files, directories and links that stay inside the folder, within limits of size and \
         number. Name what the app does not need in .rungignore and deploy again.",
    ),
    (
        Code::IndexChanged,
        "The cluster's state is no longer the one that the change was planned for. Nothing was \
         changed. Somebody or something else made a change after the index given with --if-index. \
         Plan again with --dry-run, look at the new plan, and apply it with its index.",
    ),
    (
        Code::Precondition,
        "The change is not allowed in the present state. Nothing was changed. The reason says \
         what is in the way, for example that it would leave a role without a node. Remove that \
         first, then try again.",
    ),
    (
        Code::NoCandidate,
        "There is no node that could take this. Nothing was changed. Each node has a reason \
         against it: it is down, cordoned, drained, has the role already, or its role failed \
         there. Add a node, or lift the reason, for example with `ctl node uncordon`.",
    ),
    (
        Code::OperationRunning,
        "Another operation works on the same thing. Nothing was changed by this request. One app, \
         node or role is changed by one operation at a time. Wait for it with `ctl op watch`, \
         then try again.",
    ),
    (
        Code::DataLoss,
        "What was asked for may lose data, and it was not said that this is accepted. Nothing was \
         changed. The reason says what the surviving copies have, which copies do not answer, and \
         how much those were last known to have. If they can be started again, start them: \
         nothing is lost then. If they are gone for good, and are off or cut off, say so with \
         --accept-data-loss --confirm-fenced.",
    ),
    (
        Code::MajorityReachable,
        "A majority of the copies is reachable, so nothing needs to be lost. Nothing was changed. \
         The copies elect a primary by themselves within a second or two. If nothing can be \
         written all the same, `ctl doctor` says what keeps them from it, for example a full disk.",
    ),
    (
        Code::SurvivorBehind,
        "The copy that was named has less than another one that can be reached. Nothing was \
         changed. The reason says how far each of them is. Leave --from out, and the one that has \
         the most is taken.",
    ),
    (
        Code::NoQuorum,
        "Too few control voters answer to decide anything. The change was refused; what runs goes \
         on running, including restarts of its processes. Start the missing voters (`ctl status` \
         marks them); two of three, or three of five, are needed.",
    ),
    (
        Code::Unreachable,
        "The node, or the part of the cluster that was needed, did not answer. For a question \
         nothing happened. See that `rungd` runs on the data directory that ctl uses (--data or \
         RUNG_DATA), and whether the machine is overloaded.",
    ),
    (
        Code::OutcomeUnknown,
        "The request was sent, but its answer was lost. The change may have been made or not, so \
         it is never called failed. Look with `ctl op ls` and `ctl status`; making the same \
         change again is safe, since what is done already is nothing to do.",
    ),
    (
        Code::Overloaded,
        "The node has as much to do as it allows itself. This request was refused at once and \
         changed nothing. Try again in a moment, end some of the commands that follow, or ask \
         another node.",
    ),
    (
        Code::TokenInvalid,
        "The join token is not one of this cluster. Either it is not copied whole, or it was \
         revoked, or it belongs to another cluster. Make a new one with `ctl token create` on a \
         node of the cluster that is to be joined.",
    ),
    (
        Code::TokenExpired,
        "The join token is too old. Make a new one with `ctl token create`, with a longer --ttl \
         if need be, and see that the clocks of both machines agree.",
    ),
    (
        Code::TokenSpent,
        "The join token was used as often as it may be. Each use lets one node join. Make a new \
         one with `ctl token create`, with --uses for several nodes.",
    ),
    (
        Code::WrongCluster,
        "The other side belongs to another cluster. A data directory stays with the cluster that \
         it joined first. Join with an address and a token of the same cluster, or start with an \
         empty data directory.",
    ),
    (
        Code::NameTaken,
        "Another node of the cluster has this name. Start the new one with another --name, or, if \
         the old one is gone for good, remove it with `ctl node remove`.",
    ),
    (
        Code::ClockSkew,
        "The clocks of two machines differ too much. Certificates are valid between two times, so \
         a wrong clock makes them useless. Set the clock, best with an NTP service, and start the \
         node again.",
    ),
    (
        Code::IdentityRefused,
        "The other side does not accept who you are. For a node: its certificate is not one of \
         this cluster, or the node was removed, and then it joins again with an empty data \
         directory and a token. For ctl: the socket belongs to another user; run ctl as the user \
         that runs rungd.",
    ),
    (
        Code::DataInUse,
        "Another process uses this data directory. Two nodes on one directory would destroy it, \
         so the second does not start. Stop the first, or give each node a directory of its own.",
    ),
    (
        Code::DataNewer,
        "The data directory was written by a newer version of Rung. Reading it with this version \
         could lose what the newer one added, so the node does not start. Install that version or \
         a later one.",
    ),
    (
        Code::DataCorrupt,
        "Data on the disk is not what was written there. The reason names the file and the place. \
         The node does not take part with it. While the rest of the cluster is well, remove the \
         node, empty its directory and let it join again; look at the disk's health first.",
    ),
    (
        Code::DiskFull,
        "The disk has no room left. What was being written was refused, nothing that was \
         acknowledged is lost. Make room on the file system of the data directory; `ctl top` \
         shows what is free on each node.",
    ),
    (
        Code::DiskFailed,
        "The disk reported an error. After a failed sync the node stops, since it cannot know \
         what was kept. Look at the kernel's messages and the disk's health, replace the disk if \
         need be, then start the node, or join a new one in its place.",
    ),
    (
        Code::PortTaken,
        "Another process listens on a port that the node needs. The reason names the address. \
         Stop the other process (`ss -ltnup` shows it), or start the node with another --bind \
         address or port.",
    ),
    (
        Code::Config,
        "The node's options or its configuration file cannot be used. The reason names the part \
         and what it may be. The node did not start, and changed nothing.",
    ),
    (
        Code::ArchiveUnusable,
        "The directory of an archive cannot be used: it is not there (a share that is not mounted?), \
         it holds the archive of another database or cluster, or the system refused to read or \
         write it. The reason names the file. Directories of archives are never made, so that \
         nothing is written below a mount point; each database needs one of its own, with room \
         for its bases and what was written since. Writing goes on by itself when the reason is gone.",
    ),
    (
        Code::AppFailed,
        "The app's own process failed. It ended, did not listen on $PORT, or did not become \
         healthy in time; the reason shows the last lines that it printed. A bad release is taken \
         back by itself and the old one stays. See `ctl logs <app>`, repair the app, deploy again.",
    ),
    (
        Code::Internal,
        "Rung itself went wrong. This is a bug: the reason and the node's log (`ctl logs control`) \
         say more. `ctl doctor` tells whether the cluster is well; please report it with both.",
    ),
];

/// The paragraph of a code.
pub fn text(code: Code) -> &'static str {
    EXPLAINED
        .iter()
        .find(|(explained, _)| *explained == code)
        .map_or("This version of ctl does not know more about it.", |(_, text)| text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of all codes, as serde lists them when it meets an unknown one.
    fn all_codes() -> Vec<String> {
        let error = serde_json::from_str::<Code>("\"no such code\"").unwrap_err().to_string();
        let list = error.split("expected one of ").nth(1).unwrap();
        list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    }

    #[test]
    fn every_code_is_explained_once() {
        let all = all_codes();
        assert!(all.len() >= 29, "{all:?}");
        for name in &all {
            let code = Code::from_name(name).unwrap();
            let times = EXPLAINED.iter().filter(|(explained, _)| *explained == code).count();
            assert_eq!(times, 1, "{name}");
        }
    }

    #[test]
    fn every_explanation_is_a_paragraph_of_plain_sentences() {
        for (code, text) in EXPLAINED {
            assert!(text.len() > 100 && text.ends_with('.'), "{code}");
            assert!(!text.contains("  ") && !text.contains('\n'), "{code}");
        }
    }
}
