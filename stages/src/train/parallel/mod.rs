//! Training on several devices: each has all weights and a part of every step; gradients are added up over all of them, and each moves
//! the weights that it owns, whose optimizer states it alone holds (data parallel, with the states sharded as in ZeRO's second stage,
//! Rajbhandari and others 2020, arXiv:1910.02054).
//!
//! What a training comes to is the same function of its parameters whatever the number of devices, but for the order in which
//! gradients are added up.

mod bucket;
mod collective;
mod crew;
mod deal;
mod rank;

pub(super) use crew::Crew;
pub(super) use deal::{Hand, Hands, deal};
pub use rank::Rank;
pub(super) use rank::{Moving, Reducing, Summed};
