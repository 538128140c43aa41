//! One board in every mode.

use crate::loader::{Loaded, load};
use crate::nodes::{self, Nodes, is_compatible, strings};
use crate::start::{Refusal, Started, start};
use crate::usefulness::Use;
use portcullis_boot::BootError;
use serde::Serialize;

/// The modes, as the command line names them.
pub const MODES: [&str; 3] = ["identity", "nested", "paravirt"];

/// How one mode ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(tag = "verdict", rename_all = "lowercase")]
pub enum Outcome {
    /// The host starts.
    Accepted {
        /// Whether the command line has to say `trust-power=yes`.
        trust_power: bool,
        /// Devices that it does not get.
        withheld: usize,
    },
    /// The boot is refused.
    Refused {
        /// The reason, with the names and numbers of this board.
        reason: String,
    },
}

impl Outcome {
    /// The reason without names and numbers, to group boards by.
    #[must_use]
    pub fn kind(&self) -> String {
        match self {
            Self::Accepted { withheld: 0, .. } => "accepted".to_owned(),
            Self::Accepted { .. } => "accepted, devices withheld".to_owned(),
            Self::Refused { reason } => format!("refused: {}", general(reason)),
        }
    }
}

/// A reason with `…` for paths and numbers.
fn general(reason: &str) -> String {
    let word = |word: &str| match word {
        _ if word.starts_with('/') || word.starts_with("0x") => "…".to_owned(),
        _ => word.to_owned(),
    };
    let words: Vec<String> = reason.split(' ').map(word).collect();
    words.join(" ")
}

/// What became of a board.
#[derive(Clone, Debug, Serialize)]
pub struct Board {
    /// Its name: the path of its tree.
    pub name: String,
    /// The kind of its chip: the last string of the root's `compatible`.
    pub chip: String,
    /// How many SMMUs it has.
    pub smmus: usize,
    /// How many of these are disabled in the tree as it is.
    pub disabled_smmus: usize,
    /// Whether the tree says how much memory there is.
    pub own_memory: bool,
    /// The outcome of identity mode with the tree's SMMUs as they are; `None` where
    /// that is how all are tried.
    pub as_it_is: Option<Outcome>,
    /// The outcome of each of [`MODES`].
    pub outcomes: Vec<Outcome>,
    /// What the host of the identity mode can use, if there is one.
    pub of_use: Option<Use>,
}

/// Boots the tree in `blob` in every mode.
///
/// # Errors
/// [`Problem`](crate::Problem) when the tree cannot be prepared.
pub fn try_board(name: &str, blob: &[u8]) -> crate::Result<Board> {
    let tree = nodes::read(blob)?;
    let nodes = Nodes::of(&tree.root);
    let is_smmu = |node| is_compatible(node, "arm,smmu-v3");
    let smmus = nodes.iter().filter(|place| is_smmu(place.node)).count();
    let mut board = Board {
        name: name.to_owned(),
        chip: strings(&tree.root, "compatible").pop().unwrap_or_default(),
        smmus,
        disabled_smmus: 0,
        own_memory: false,
        as_it_is: None,
        outcomes: Vec::new(),
        of_use: None,
    };
    for mode in MODES {
        let (loaded, result, trust_power) = boot(blob, mode, Smmus::Enabled)?;
        board.disabled_smmus = loaded.enabled_smmus;
        board.own_memory = loaded.own_memory;
        if let (true, Ok(started)) = (mode == MODES[0], &result) {
            board.of_use = Some(Use::of(&loaded.blob, started)?);
        }
        board.outcomes.push(outcome(result, trust_power));
        // Without an SMMU the mode does not matter.
        if smmus == 0 {
            break;
        }
    }
    if board.disabled_smmus > 0 {
        let (_, result, trust_power) = boot(blob, MODES[0], Smmus::AsTheyAre)?;
        board.as_it_is = Some(outcome(result, trust_power));
    }
    Ok(board)
}

fn outcome(result: std::result::Result<Started, Refusal>, trust_power: bool) -> Outcome {
    match result {
        Ok(started) => Outcome::Accepted {
            trust_power,
            withheld: started.withheld_devices,
        },
        Err(refusal) => Outcome::Refused {
            reason: refusal.to_string(),
        },
    }
}

/// What becomes of SMMUs that the tree disables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Smmus {
    /// They are enabled.
    Enabled,
    /// They stay as they are.
    AsTheyAre,
}

/// Boots in one mode; where the host could switch off what the hypervisor needs,
/// once more with a command line that allows it.
fn boot(
    blob: &[u8],
    mode: &str,
    smmus: Smmus,
) -> crate::Result<(Loaded, Result<Started, Refusal>, bool)> {
    let loaded = load(blob, &format!("host-iommu={mode}"), smmus)?;
    let result = start(&loaded);
    if !matches!(result, Err(Refusal::Boot(BootError::Switchable { .. }))) {
        return Ok((loaded, result, false));
    }
    let loaded = load(blob, &format!("host-iommu={mode} trust-power=yes"), smmus)?;
    let result = start(&loaded);
    Ok((loaded, result, true))
}
