// What kinds of pages the machine has for arenas: probes of `infercachectl doctor` that only read.

#pragma once

#include "client/cli/doctor_finding.h"
#include "client/cli/doctor_machine.h"

namespace infercache::cli {

// THP for shared memory, which decides about memfds: /sys/kernel/mm/transparent_hugepage.
Finding CheckTransparentHugePages(const Machine& machine);
// The huge pages that are set aside, against the capacity where arenas must be made of them.
Finding CheckHugetlb(const Machine& machine, const Subject& subject);

}  // namespace infercache::cli
