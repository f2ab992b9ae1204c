//! What a node can do for the cluster.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A role that a node can own.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// A voter of the control group: it keeps the cluster's desired state.
    Control,
    /// Answers names with the addresses of the load balancers.
    Dns,
    /// Accepts HTTP from clients and proxies it to instances.
    Lb,
    /// Runs the web processes of apps.
    Web,
    /// Holds copies of the databases.
    Db,
}

impl Role {
    /// Every role, in the order in which they are shown.
    pub const ALL: [Role; 5] = [Role::Control, Role::Dns, Role::Lb, Role::Web, Role::Db];

    /// The word used in commands, files and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Role::Control => "control",
            Role::Dns => "dns",
            Role::Lb => "lb",
            Role::Web => "web",
            Role::Db => "db",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A word that names no role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no role {0:?}; roles are control, dns, lb, web, db")]
pub struct UnknownRole(pub String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Role::ALL
            .into_iter()
            .find(|role| role.name() == text)
            .ok_or_else(|| UnknownRole(text.chars().take(80).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_reads_back_from_its_name() {
        for role in Role::ALL {
            assert_eq!(role.name().parse::<Role>(), Ok(role));
            assert_eq!(serde_json::to_string(&role).unwrap(), format!("\"{role}\""));
        }
        assert!("queue".parse::<Role>().is_err());
    }
}
