//! Why a change of the membership, or another request of an operator, was not carried out: by whose fault.

/// The text is one line for the operator; the kind says whether asking again helps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// Who asked is mistaken or not let in: the same request gets the same answer.
    #[error("{0}")]
    Refused(String),
    /// Another node leads by now: the same request there settles it.
    #[error("{0}")]
    NotLeader(String),
    /// A majority or a member does not answer in time: the same request may succeed later, and may have taken effect.
    #[error("{0}")]
    Unavailable(String),
    /// This node cannot go on.
    #[error("{0}")]
    Internal(String),
}

impl AdminError {
    /// Before the node has formed or joined a cluster.
    #[must_use]
    pub fn no_cluster() -> Self {
        Self::Unavailable("this node does not belong to a cluster yet".into())
    }

    /// Of a task that ended without an answer.
    pub(crate) fn of_task(error: &tokio::task::JoinError) -> Self {
        Self::Internal(error.to_string())
    }
}
