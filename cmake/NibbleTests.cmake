# Registers the cases of <folder>_test, each as one ctest: FOLDER.SUITE.CASE, in sanitized builds asan.FOLDER.SUITE.CASE. Ordinary
# builds repeat each binary as a whole with the instruction sets of NIBBLE_TEST_ISAS: ISA.FOLDER.
function(nibble_unit_tests folder)
  if(NIBBLE_SANITIZE)
    # Debian installs no symbolizer with clang; binutils' addr2line serves as one.
    gtest_discover_tests(${folder}_test NO_PRETTY_VALUES TEST_PREFIX asan.${folder}. DISCOVERY_TIMEOUT 120
      PROPERTIES LABELS asan TIMEOUT 300 ENVIRONMENT ASAN_OPTIONS=allow_addr2line=1:detect_stack_use_after_return=1)
    return()
  endif()
  gtest_discover_tests(${folder}_test NO_PRETTY_VALUES TEST_PREFIX ${folder}. DISCOVERY_TIMEOUT 60
    PROPERTIES LABELS unit TIMEOUT 300)
  if(folder STREQUAL core OR folder STREQUAL formats)
    return()  # below the kernels: no instruction set makes a difference
  endif()
  foreach(isa ${NIBBLE_TEST_ISAS})
    add_test(NAME ${isa}.${folder} COMMAND ${folder}_test)
    set_tests_properties(${isa}.${folder} PROPERTIES LABELS isa TIMEOUT 900 ENVIRONMENT NIBBLE_ISA=${isa})
  endforeach()
endfunction()

# The instruction sets that unit tests are repeated with, beside the best one: those that this machine has.
if(NOT DEFINED NIBBLE_TEST_ISAS)
  set(isas scalar)
  if(EXISTS /proc/cpuinfo)
    file(STRINGS /proc/cpuinfo flags REGEX "^flags.* avx2" LIMIT_COUNT 1)
    if(flags)
      list(APPEND isas avx2)
    endif()
  endif()
  set(NIBBLE_TEST_ISAS "${isas}" CACHE STRING "Values of NIBBLE_ISA that the unit tests are repeated with")
endif()
