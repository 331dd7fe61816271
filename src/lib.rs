//! gpuferry carries a GPU from a Linux host to a KVM guest and back.
