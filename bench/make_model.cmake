# The writer of random checkpoints, for measurements and for tests of whole programs.
if(NOT TARGET make_model)
  add_executable(make_model ${PROJECT_SOURCE_DIR}/bench/make_model.cpp)
  target_link_libraries(make_model PRIVATE nibble_formats CLI11::CLI11)
  set_target_properties(make_model PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/bench)
endif()
