# How a floor, a test and a fuzzer are declared. A floor is a folder of src/ and a static library cofre_<floor>.

set(COFRE_WARNINGS -Wall -Wextra -Wpedantic -Werror -Wshadow -Wconversion -Wno-sign-conversion
                   -Wnon-virtual-dtor -Wold-style-cast -Woverloaded-virtual -Wimplicit-fallthrough)

# cofre_floor(NAME SOURCES a.cc b.cc ... [LINK target ...]): the library cofre_NAME.
function(cofre_floor name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LINK" ${ARGN})
  add_library(cofre_${name} STATIC ${ARG_SOURCES})
  target_include_directories(cofre_${name} PUBLIC "${PROJECT_SOURCE_DIR}/src")
  target_compile_options(cofre_${name} PRIVATE ${COFRE_WARNINGS})
  target_link_libraries(cofre_${name} PUBLIC ${ARG_LINK})
endfunction()

# cofre_test(NAME SOURCES ... [LINK ...] [TIMEOUT s]): a GoogleTest program, one ctest entry.
function(cofre_test name)
  cmake_parse_arguments(ARG "" "TIMEOUT" "SOURCES;LINK" ${ARGN})
  add_executable(test_${name} ${ARG_SOURCES})
  target_include_directories(test_${name} PRIVATE "${PROJECT_SOURCE_DIR}/tests")
  target_compile_options(test_${name} PRIVATE ${COFRE_WARNINGS})
  target_link_libraries(test_${name} PRIVATE ${ARG_LINK} GTest::gmock GTest::gtest_main)
  if(NOT ARG_TIMEOUT)
    set(ARG_TIMEOUT 300)
  endif()
  add_test(NAME ${name} COMMAND test_${name})
  set_tests_properties(${name} PROPERTIES TIMEOUT ${ARG_TIMEOUT})
endfunction()
