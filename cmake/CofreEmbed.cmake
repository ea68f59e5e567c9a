# cofre_embed(TARGET NAME FILE HEADER): a source of TARGET that defines the std::string_view NAME, declared in HEADER within
# cofre::tool, as the bytes of FILE. Made anew when FILE changes. Run as a script (-P), this file writes that source.

function(cofre_embed target name file header)
  get_filename_component(file "${file}" ABSOLUTE)
  set(source "${CMAKE_CURRENT_BINARY_DIR}/embedded/${name}.cc")
  add_custom_command(OUTPUT "${source}"
    COMMAND "${CMAKE_COMMAND}" -DNAME=${name} "-DFILE=${file}" -DHEADER=${header} "-DSOURCE=${source}"
            -P "${PROJECT_SOURCE_DIR}/cmake/CofreEmbed.cmake"
    DEPENDS "${file}" "${PROJECT_SOURCE_DIR}/cmake/CofreEmbed.cmake"
    COMMENT "Embedding ${file}" VERBATIM)
  target_sources(${target} PRIVATE "${source}")
endfunction()

if(CMAKE_SCRIPT_MODE_FILE STREQUAL CMAKE_CURRENT_LIST_FILE)
  file(READ "${FILE}" bytes HEX)
  string(REGEX REPLACE "(..)" "0x\\1," bytes "${bytes}")
  string(REGEX REPLACE "(0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,0x..,)" "\\1\n" bytes "${bytes}")
  file(WRITE "${SOURCE}" "// Made from ${FILE}: edit that.
#include \"${HEADER}\"

namespace cofre::tool {
namespace {

constexpr unsigned char kBytes[] = {
${bytes}};

}  // namespace

const std::string_view ${NAME}(reinterpret_cast<const char*>(kBytes), sizeof kBytes);

}  // namespace cofre::tool
")
endif()
