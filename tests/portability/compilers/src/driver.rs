//! The first Vulkan driver that the loader finds makes every pipeline that a GPU gets, as wgpu would have it.

use std::ffi::CStr;

use ash::{Entry, Instance, ext, khr, vk};

use crate::pipeline::{ENTRY, Pipeline};
use crate::table::{Row, Statistics};
use crate::targets;

pub fn run(pipelines: &str, filter: &str) -> Result<(), String> {
    let mut pipelines = Pipeline::read_all(pipelines)?;
    pipelines.retain(|pipeline| pipeline.on_gpus() && pipeline.name().contains(filter));
    pipelines.sort_by_key(Pipeline::name);
    let told = |e: vk::Result| e.to_string();
    // SAFETY: handles are made in order, used while they live, and destroyed in the reverse order.
    unsafe {
        let entry = Entry::load().map_err(|e| e.to_string())?;
        let application = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
        let create = vk::InstanceCreateInfo::default().application_info(&application);
        let instance = entry.create_instance(&create, None).map_err(told)?;
        let found = instance.enumerate_physical_devices().map_err(told)?;
        let physical = *found.first().ok_or("no Vulkan device")?;
        let driver = Driver::open(&instance, physical).map_err(told)?;
        println!("# {}", driver.about);
        let mut faults = 0;
        for pipeline in &pipelines {
            match driver.make(pipeline) {
                Ok(statistics) => println!("{}", Row { name: pipeline.name(), statistics }),
                Err(fault) => {
                    println!("{}: FAULT {fault}", pipeline.name());
                    faults += 1;
                }
            }
        }
        driver.device.destroy_device(None);
        instance.destroy_instance(None);
        if faults == 0 { Ok(()) } else { Err(format!("{faults} pipelines were not made")) }
    }
}

struct Driver {
    about: String,
    device: ash::Device,
    executables: khr::pipeline_executable_properties::Device,
    /// The driver keeps accesses inside buffers itself: `VK_EXT_robustness2`.
    robust: bool,
}

impl Driver {
    unsafe fn open(instance: &Instance, physical: vk::PhysicalDevice) -> Result<Driver, vk::Result> {
        let mut about = vk::PhysicalDeviceDriverProperties::default();
        let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut about);
        let extensions = unsafe {
            instance.get_physical_device_properties2(physical, &mut properties);
            instance.enumerate_device_extension_properties(physical)?
        };
        let name = properties.properties.device_name_as_c_str().unwrap_or(c"?").to_string_lossy().into_owned();
        let version = about.driver_info_as_c_str().unwrap_or(c"?").to_string_lossy().into_owned();
        let has = |name: &CStr| extensions.iter().any(|e| e.extension_name_as_c_str() == Ok(name));
        let mut robustness = vk::PhysicalDeviceRobustness2FeaturesEXT::default();
        let mut features = vk::PhysicalDeviceFeatures2::default();
        let offered = has(ext::robustness2::NAME);
        if offered {
            features = features.push_next(&mut robustness);
        }
        unsafe { instance.get_physical_device_features2(physical, &mut features) };
        let robust = offered && robustness.robust_buffer_access2 == vk::TRUE;
        let mut robustness = vk::PhysicalDeviceRobustness2FeaturesEXT::default()
            .robust_buffer_access2(true)
            .robust_image_access2(robustness.robust_image_access2 == vk::TRUE);
        let mut info = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
        let core = vk::PhysicalDeviceFeatures::default().robust_buffer_access(true);
        let mut names = vec![khr::pipeline_executable_properties::NAME.as_ptr()];
        let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
        let mut create = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_features(&core)
            .push_next(&mut info);
        if robust {
            names.push(ext::robustness2::NAME.as_ptr());
            create = create.push_next(&mut robustness);
        }
        let device = unsafe { instance.create_device(physical, &create.enabled_extension_names(&names), None)? };
        let executables = khr::pipeline_executable_properties::Device::new(instance, &device);
        Ok(Driver { about: format!("{name}, {version}"), device, executables, robust })
    }

    /// Makes a pipeline; what the driver tells of it.
    unsafe fn make(&self, pipeline: &Pipeline) -> Result<Statistics, String> {
        let code = targets::spirv(&pipeline.module()?, self.robust)?;
        let kinds = pipeline.bindings.iter().map(|_| vk::DescriptorType::STORAGE_BUFFER);
        let layout = |(kind, binding)| {
            let layout = vk::DescriptorSetLayoutBinding::default().binding(binding).descriptor_type(kind);
            layout.descriptor_count(1).stage_flags(vk::ShaderStageFlags::COMPUTE)
        };
        let bindings: Vec<_> = kinds.chain([vk::DescriptorType::UNIFORM_BUFFER]).zip(0..).map(layout).collect();
        let set = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
        // Where a part of the grid begins.
        let part = [0, 1].map(|binding| layout((vk::DescriptorType::UNIFORM_BUFFER_DYNAMIC, binding)));
        let part = vk::DescriptorSetLayoutCreateInfo::default().bindings(&part);
        let told = |e: vk::Result| e.to_string();
        unsafe {
            let module = vk::ShaderModuleCreateInfo::default().code(&code);
            let module = self.device.create_shader_module(&module, None).map_err(told)?;
            let set = self.device.create_descriptor_set_layout(&set, None).map_err(told)?;
            let part = self.device.create_descriptor_set_layout(&part, None).map_err(told)?;
            let sets = [set, part];
            let layout = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
            let layout = self.device.create_pipeline_layout(&layout, None).map_err(told)?;
            let name = std::ffi::CString::new(ENTRY).expect("a name without zeros");
            let stage = vk::PipelineShaderStageCreateInfo::default().module(module).name(&name);
            let stage = stage.stage(vk::ShaderStageFlags::COMPUTE);
            let create = vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout);
            let create = create.flags(vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR);
            let made = self.device.create_compute_pipelines(vk::PipelineCache::null(), &[create], None);
            let found = match made {
                Ok(made) => {
                    let found = self.statistics(made[0]);
                    self.device.destroy_pipeline(made[0], None);
                    found.map_err(told)
                }
                Err((_, e)) => Err(told(e)),
            };
            self.device.destroy_pipeline_layout(layout, None);
            sets.into_iter().for_each(|set| self.device.destroy_descriptor_set_layout(set, None));
            self.device.destroy_shader_module(module, None);
            found
        }
    }

    unsafe fn statistics(&self, pipeline: vk::Pipeline) -> Result<Statistics, vk::Result> {
        let info = vk::PipelineInfoKHR::default().pipeline(pipeline);
        let mut found = Statistics::default();
        let executables = unsafe { self.executables.get_pipeline_executable_properties(&info)? };
        for (index, _) in (0..).zip(&executables) {
            let info = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline).executable_index(index);
            for statistic in unsafe { self.executables.get_pipeline_executable_statistics(&info)? } {
                let name = statistic.name_as_c_str().unwrap_or(c"?").to_string_lossy();
                // SAFETY: the format says which field of the union is set.
                let value = unsafe {
                    match statistic.format {
                        vk::PipelineExecutableStatisticFormatKHR::FLOAT64 => statistic.value.f64 as u64,
                        vk::PipelineExecutableStatisticFormatKHR::BOOL32 => statistic.value.b32.into(),
                        _ => statistic.value.u64,
                    }
                };
                found.add(&name, value);
            }
        }
        Ok(found)
    }
}
