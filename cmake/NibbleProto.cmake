# Adds what protoc makes of a .proto file to a library; sources that match the patterns include it as <NAME.pb.h>. Generated code is a
# system header: our warnings do not apply to it. Targets of other folders link LIBRARY_NAME for it.
#
# The runtime is linked statically, hidden, and before libsentencepiece.so, which exports an older protobuf: each must find its own
# functions.
#
#   nibble_proto(LIBRARY FILE.proto PATTERN...)
function(nibble_proto library file)
  get_filename_component(name ${file} NAME_WE)
  get_filename_component(folder ${CMAKE_CURRENT_SOURCE_DIR}/${file} DIRECTORY)
  set(out ${CMAKE_CURRENT_BINARY_DIR}/proto)
  file(MAKE_DIRECTORY ${out})
  add_custom_command(OUTPUT ${out}/${name}.pb.cc ${out}/${name}.pb.h
    COMMAND protobuf::protoc --proto_path ${folder} --cpp_out ${out} ${name}.proto
    DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/${file} protobuf::protoc VERBATIM)
  add_library(${library}_${name} STATIC ${out}/${name}.pb.cc ${out}/${name}.pb.h)
  target_compile_options(${library}_${name} PRIVATE -w)
  target_include_directories(${library}_${name} SYSTEM PUBLIC ${out})
  target_link_libraries(${library}_${name} PUBLIC protobuf::libprotobuf-lite)
  set_property(TARGET protobuf::libprotobuf-lite APPEND PROPERTY INTERFACE_LINK_LIBRARIES $<LINK_ONLY:PkgConfig::SENTENCEPIECE>)
  target_link_libraries(${library} PRIVATE ${library}_${name})
  # Of all archives it would be the sanitizers' malloc and free too.
  target_link_options(${library} PUBLIC LINKER:--exclude-libs,libprotobuf-lite.a:lib${library}_${name}.a)
  file(GLOB sources CONFIGURE_DEPENDS ${ARGN})
  set_source_files_properties(${sources} PROPERTIES COMPILE_OPTIONS "-isystem;${out};-fvisibility-inlines-hidden" OBJECT_DEPENDS ${out}/${name}.pb.h)
endfunction()
