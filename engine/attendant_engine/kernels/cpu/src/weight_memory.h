// Where packed weights lie: in huge pages shared by many weights, since most are no whole number of them.
#pragma once

#include <cstddef>

namespace attendant {

// Memory of `num_bytes`, aligned to 64 and not cleared; null where there is none.
char* allocate_weight(size_t num_bytes);
void release_weight(char* memory);

}  // namespace attendant
