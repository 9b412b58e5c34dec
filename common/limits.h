// Every limit on what a peer may send or hold. A limit is inclusive: the value itself is legal, one
// more is refused with an error that names it.

#pragma once

#include <cstddef>
#include <cstdint>

namespace infercache {

inline constexpr size_t kMaxKeyBytes = 1024;
inline constexpr size_t kMaxParts = 4096;
inline constexpr size_t kMaxRank = 8;
inline constexpr size_t kMaxPartTableBytes = 16 * 1024;  // encoded, see part_table.h
inline constexpr uint64_t kMaxObjectBytes = uint64_t{1} << 40;
inline constexpr uint8_t kMaxClassId = 15;
inline constexpr uint64_t kMaxTtlMs = uint64_t{10} * 365 * 24 * 3600 * 1000;  // ten years
inline constexpr float kMaxComputeCostMs = 1e9f;

inline constexpr size_t kMaxFingerprintEntries = 64;
inline constexpr size_t kMaxFingerprintKeyBytes = 128;
inline constexpr size_t kMaxFingerprintValueBytes = 1024;

inline constexpr size_t kMaxNamespaceNameBytes = 64;
inline constexpr size_t kMaxNamespaces = 256;
inline constexpr uint64_t kMaxObjectsPerNamespace = uint64_t{1} << 30;

inline constexpr size_t kMaxKeysPerCall = 65'536;
inline constexpr size_t kMaxPartsPerCall = 262'144;  // of all its objects together
inline constexpr size_t kMaxOtherFields =
    262'144;  // repeated without a limit of their own, or unknown
inline constexpr size_t kMaxListPageSize = 10'000;

// Single flight: claims and waits together. A namespace's take some 200 bytes each.
inline constexpr size_t kMaxClaimsPerParty = 16'384;  // of a session or a stream
inline constexpr size_t kMaxClaimsPerNamespace = 262'144;
inline constexpr uint64_t kMaxWaitMs = 3'600'000;
inline constexpr uint64_t kMaxClaimMs = 3'600'000;
inline constexpr uint64_t kDefaultClaimMs = 60'000;

inline constexpr uint32_t kDefaultPinSlots = 1'024;
inline constexpr uint32_t kMaxPinSlots = 65'536;
// What the sessions of one user have beyond those that they began with: the daemon reads them all,
// ten times a second and whenever it frees memory that readers may hold.
inline constexpr uint64_t kMaxGrownPinSlotsPerUser = uint64_t{64} * kMaxPinSlots;

// The same-host lane (local.proto).
inline constexpr uint32_t kMaxFrameBytes = 1 << 20;     // of a frame's body
inline constexpr uint32_t kMaxHelloBytes = 128 << 10;   // of a body before there is a session
inline constexpr int kMaxFrameDescriptors = 8;          // beside one frame
inline constexpr size_t kMaxMessageDescriptors = 253;   // the kernel's, beside one sendmsg
inline constexpr size_t kMaxItemsPerFrame = 4'096;      // keys, reservations, puts
inline constexpr uint64_t kMaxInlineBytes = 16 * 1024;  // a value that travels in a PutInline
inline constexpr uint64_t kMaxWriteBytes = 512 * 1024;  // of one Write
inline constexpr size_t kMaxReservationsPerSession = 65'536;
// Nor more than half of the namespace's objects, but as many as this in any.
inline constexpr size_t kReservationsOfAnySession = 64;
inline constexpr size_t kMaxLeasesPerSession = 4'096;  // held by Lookup
inline constexpr size_t kMaxTouchesPerDrain = 1'024;   // of one session
inline constexpr uint64_t kMaxSendsPerChunk = 4;       // descriptors of a chunk to one session
inline constexpr size_t kMaxClientNameBytes = 128;
// Sessions that are over while their process may still write, each with up to two descriptors: of
// the process and of the connection. A user that has as many opens no further session, nor, if
// there are as many of all users, one that has any.
inline constexpr size_t kMaxQuarantinedSessionsPerUser = 256;
inline constexpr size_t kMaxQuarantinedSessions = 1'024;
inline constexpr uint32_t kMaxConnectionsBeyondSessions = 256;  // opening, refused or HTTP/2
// Descriptors that clients made and whose closing takes long; beyond that no connection is taken
// and no session's descriptor.
inline constexpr size_t kMaxUnclosedDescriptors = 1'024;
inline constexpr size_t kMaxLocalThreads = 64;

// Of a tier, whatever store.chunk_bytes says, and so the largest object in a GPU.
inline constexpr uint64_t kMaxDeviceChunkBytes = uint64_t{1} << 30;

// Tensors that clients lend each other. What they are known by (keys, parts) counts with
// kLoanOverheadBytes each. The daemon keeps a descriptor for each allocation that has one.
inline constexpr size_t kMaxLoansPerSession = 65'536;
inline constexpr size_t kMaxLentAllocationsPerSession = 256;
inline constexpr size_t kMaxLentAllocations = 1'024;
inline constexpr size_t kMaxLoanTableBytesPerSession = size_t{16} << 20;
inline constexpr size_t kMaxLoanTableBytes = size_t{64} << 20;
inline constexpr size_t kLoanOverheadBytes = 512;
inline constexpr size_t kMaxBorrowedPerSession = 65'536;
// Of all sessions together, about 100 bytes each; one user's may have three quarters of it.
inline constexpr size_t kMaxBorrowed = 524'288;
inline constexpr size_t kMaxBorrowedPerUser = kMaxBorrowed / 4 * 3;
inline constexpr uint32_t kMaxMapsPerAllocation = 16;  // of one session
inline constexpr size_t kMaxDeviceNameBytes = 64;
inline constexpr size_t kLegacyHandleBytes = 64;
inline constexpr int kMaxRequestDescriptors = 1;  // beside a Lend
inline constexpr size_t kMaxWaitingDescriptors =
    16;  // beside requests of one session not handled yet

// What a client of the same-host lane lets pile up for a daemon that does not read, and what it
// takes from one that it does not know.
inline constexpr size_t kMaxUnsentRequestBytes = size_t{16} << 20;
inline constexpr size_t kMaxPendingRequests = 65'536;
inline constexpr uint32_t kMaxArenaChunks = 65'536;  // what a record can name
inline constexpr size_t kMaxDaemonMessageBytes = 4'096;

}  // namespace infercache
