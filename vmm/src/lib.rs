//! Bell Jar: a VMM that shows, snapshots and copies guest processes from outside.
