//! Helpers of the guest test programs.
