// The generated parts of a man page. Prose is in the page's template (*.in), where a line of these
// names stands for what is generated: @OPTIONS@ and @COMMANDS@ of the program, @NOTES@, and any
// other list that is given by name.

#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "deploy/packaging/reference/program.h"

namespace infercache::reference {

using Lists = std::map<std::string, std::vector<Group>>;  // by name, as "NAMESPACES"

// roff of `page_template`. NOT_FOUND: a line @NAME@ that nothing stands for.
absl::StatusOr<std::string> ManPage(const std::string& page_template, const Command& program,
                                    const std::string& version, const Lists& lists = {});

}  // namespace infercache::reference
