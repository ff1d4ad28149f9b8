//! How the kernel's own building blocks appear in the layout note: what stands behind a counted
//! reference, a lock, a list head. Described structures just use them as field types.

use belljar_abi::layout::{DescribeField, DescribePointer, Described, Kind, Tag};

use crate::addr::{PhysAddr, VirtAddr};
use crate::array::Array;
use crate::kref::Ref;
use crate::list::{Link, Linked, List};
use crate::mm::{MappedFile, RangeFile};
use crate::ns::CapSet;
use crate::queue::Queue;
use crate::signal::SigSet;
use crate::sync::{IrqLock, Mutex, RwLock, SeqCount, SpinLock};

impl<T: Described> DescribeField for Ref<T> {
    const KIND: Kind = Kind::of_type(Tag::Ptr, T::NAME, 8);
}

impl<T: Described> DescribePointer for Ref<T> {}

impl DescribeField for RangeFile {
    const KIND: Kind = <Ref<MappedFile> as DescribeField>::KIND;
}

impl DescribePointer for RangeFile {}

impl DescribeField for Link {
    const KIND: Kind = Kind::plain(Tag::Link, size_of::<Link>());
}

impl<T: Described + Linked<L>, L> DescribeField for List<T, L> {
    const KIND: Kind = Kind::list(T::NAME, T::FIELD, size_of::<Link>());
}

/// What wraps an element would need an offset of its own: the elements of growable arrays stand bare.
impl<T: DescribeField> DescribeField for Array<T> {
    const KIND: Kind = Kind::vec(T::KIND_REF, size_of::<T>());
}

/// Its items are found as those of an array are.
impl<T: DescribeField> DescribeField for Queue<T> {
    const KIND: Kind = Kind::vec(T::KIND_REF, size_of::<T>());
}

impl DescribeField for SeqCount {
    const KIND: Kind = Kind::plain(Tag::SeqCount, size_of::<SeqCount>());
}

impl DescribeField for PhysAddr {
    const KIND: Kind = Kind::plain(Tag::Phys, 8);
}

impl DescribeField for VirtAddr {
    const KIND: Kind = Kind::plain(Tag::Hex, 8);
}

impl DescribeField for CapSet {
    const KIND: Kind = Kind::plain(Tag::Hex, 8);
}

impl DescribeField for SigSet {
    const KIND: Kind = Kind::plain(Tag::Hex, 8);
}

impl<T: DescribeField> DescribeField for SpinLock<T> {
    const KIND: Kind = T::KIND;
    const DELTA: usize = Self::DATA_OFFSET + T::DELTA;
}

impl<T: DescribeField> DescribeField for IrqLock<T> {
    const KIND: Kind = T::KIND;
    const DELTA: usize = Self::DATA_OFFSET + T::DELTA;
}

impl<T: DescribeField> DescribeField for Mutex<T> {
    const KIND: Kind = T::KIND;
    const DELTA: usize = Self::DATA_OFFSET + T::DELTA;
}

impl<T: DescribeField> DescribeField for RwLock<T> {
    const KIND: Kind = T::KIND;
    const DELTA: usize = Self::DATA_OFFSET + T::DELTA;
}
